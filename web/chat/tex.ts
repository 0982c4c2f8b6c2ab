// Formulas. KaTeX sets its styles one by one, which the page's policy allows where style attributes in HTML are refused.

import katex from "katex";
import "katex/dist/katex.min.css";

const LARGEST_EM = 20;

/** Puts a formula in place of its source, unless there is a mistake in it. */
export default function tex(place: HTMLElement, displayMode: boolean) {
  const source = place.textContent;
  try {
    katex.render(source, place, { displayMode, maxSize: LARGEST_EM, strict: "ignore", trust: false });
  } catch {
    place.textContent = source;
  }
}
