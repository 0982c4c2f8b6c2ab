// What a model writes, as Markdown with mathematics and code. It comes as a chunk of its own, once there is an answer.
//
// HTML within it is text like any other. What marked makes is parsed where no script runs and nothing is loaded, gets
// its formulas and colours there, and is sanitised last, as a tree: nothing is turned to text and parsed again.

import DOMPurify from "dompurify";
import { Marked, type Token, type Tokens, type TokenizerAndRendererExtension } from "marked";

const TAGS = [
  ...["p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "del", "a", "code", "pre", "span", "div"],
  ...["blockquote", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "#text", "svg", "path", "line"],
  ...["math", "semantics", "annotation", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "msup", "msub", "msubsup"],
  ...["mfrac", "msqrt", "mroot", "mover", "munder", "munderover", "mtable", "mtr", "mtd", "mlabeledtr", "mstyle"],
  ...["mpadded", "mphantom", "menclose", "mmultiscripts", "mprescripts", "none"],
];
const LINK = /^(https?:|mailto:)/i;

const libraries: {
  tex?: typeof import("./tex").default;
  colours?: typeof import("./colours").default;
} = {};

function formula(name: string, level: "block" | "inline", start: RegExp, pattern: RegExp): TokenizerAndRendererExtension {
  return {
    name,
    level,
    start: (src) => src.match(start)?.index,
    tokenizer(src) {
      const found = pattern.exec(src);
      if (!found) return undefined;
      const [raw, ...texts] = found;
      const display = /^(\$\$|\\\[)/.test(raw);
      return { type: name, raw, text: texts.find((text) => text !== undefined)!.trim(), display };
    },
    renderer: ({ text, display }) => `<span data-tex="${display ? "display" : "inline"}">${escaped(text)}</span>`,
  };
}

const marked = new Marked({
  gfm: true,
  breaks: true,
  extensions: [
    formula("block-formula", "block", /^(\$\$|\\\[)/m, /^(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/),
    // A dollar sign before a space, or with a digit after it, is money.
    formula(
      "formula",
      "inline",
      /\$|\\[([]/,
      /^(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\]|\\\(([\s\S]+?)\\\)|\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\d))/,
    ),
  ],
  tokenizer: {
    html: () => undefined,
    tag: () => undefined,
    emStrong(src, _masked, before = "") {
      // 8*(5-2)*1 has no emphasis in it.
      const product = /[\d)]/.test(before) && /^\*+(?=[\d(])/.exec(src);
      return product ? ({ type: "text", raw: product[0], text: product[0] } as unknown as Tokens.Em) : false;
    },
  },
  renderer: {
    code: ({ text, lang = "" }) =>
      `<pre><code data-language="${escaped(lang.split(/\s/)[0]!)}">${escaped(text)}\n</code></pre>`,
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  if (!LINK.test(node.getAttribute("href") ?? "")) node.removeAttribute("href");
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer");
});

export type Block = Token;

export function blocks(text: string): Block[] {
  return marked.lexer(text).filter(({ type }) => type !== "space");
}

/** The block as nodes; `later` is called when a library has come that it needs. */
export function nodes(block: Block, later: () => void): Node[] {
  const root = document.implementation.createHTMLDocument("").createElement("div");
  root.innerHTML = marked.parser([block]);
  for (const place of root.querySelectorAll<HTMLElement>("[data-tex]")) {
    if (libraries.tex) libraries.tex(place, place.dataset.tex === "display");
    else void import("./tex").then((loaded) => (libraries.tex = loaded.default)).then(later);
  }
  for (const place of root.querySelectorAll<HTMLElement>("code[data-language]:not([data-language=''])")) {
    if (libraries.colours) libraries.colours(place, place.dataset.language!);
    else void import("./colours").then((loaded) => (libraries.colours = loaded.default)).then(later);
  }
  DOMPurify.sanitize(root, { IN_PLACE: true, ALLOWED_TAGS: TAGS });
  return [...root.childNodes];
}

function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
}
