import { defineConfig, type Plugin } from "vite";

// KaTeX names each of its fonts in three formats; every browser that runs the page reads the first.
const oneFormat: Plugin = {
  name: "one-format-of-fonts",
  enforce: "pre",
  transform: {
    filter: { id: /katex\.min\.css$/ },
    handler: (code) => code.replace(/,url\([^)]*\.(woff|ttf)\) format\("\w+"\)/g, ""),
  },
};

// One mode for each page: `runs` is index.html, `chat` is chat/index.html.
// Names without hashes: the built files are committed, and a change of one line should be a change of one file.
export default defineConfig(({ mode }) => ({
  root: mode === "chat" ? "chat" : ".",
  base: "./",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  plugins: [oneFormat],
  build: {
    outDir: `${process.env.STATIC ?? `${import.meta.dirname}/../steep/server/static`}/${mode}`,
    emptyOutDir: true,
    modulePreload: false,
    assetsInlineLimit: 0, // the policy of the page allows no fonts in data: URLs
    license: { fileName: "licenses.md" },
    rollupOptions: {
      output: { entryFileNames: "[name].js", chunkFileNames: "[name].js", assetFileNames: "[name][extname]" },
    },
  },
  server: {
    fs: { allow: [import.meta.dirname] },
    proxy: {
      "/api": { target: "http://127.0.0.1:8400", changeOrigin: true },
      "/v1": { target: "http://127.0.0.1:8000", changeOrigin: true },
    },
  },
}));
