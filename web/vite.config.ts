import { defineConfig } from "vite";

// Names without hashes: the built files are committed, and a change of one line should be a change of one file.
export default defineConfig({
  base: "./",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "../steep/server/static",
    emptyOutDir: true,
    modulePreload: false,
    rollupOptions: { output: { entryFileNames: "page.js", assetFileNames: "page[extname]" } },
  },
  server: { proxy: { "/api": { target: "http://127.0.0.1:8400", changeOrigin: true } } },
});
