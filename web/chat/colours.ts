// Colours of code, in a few languages.

import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import cpp from "highlight.js/lib/languages/cpp";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import python from "highlight.js/lib/languages/python";

for (const [name, language] of Object.entries({ bash, cpp, javascript, json, python })) hljs.registerLanguage(name, language);

export default function colours(place: HTMLElement, language: string) {
  if (hljs.getLanguage(language)) place.innerHTML = hljs.highlight(place.textContent, { language }).value;
}
