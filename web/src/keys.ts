// Keys of the page. A key that is typed into a field belongs to the field.

import { useLayoutEffect } from "preact/hooks";

export type Keys = Record<string, (event: KeyboardEvent) => void>;

export function useKeys(keys: Keys) {
  // Before the browser paints: what a reader can see, the keys already act on.
  useLayoutEffect(() => {
    function pressed(event: KeyboardEvent) {
      const field = event.target instanceof Element && event.target.closest("input, select, textarea, dialog[open]");
      const action = keys[event.key];
      if (!action || field || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      action(event);
    }
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  });
}

/** Moves the focus among the elements that fit, by so many places, from where it is. */
export function step(selector: string, by: number) {
  const all = [...document.querySelectorAll<HTMLElement>(selector)];
  const at = all.findIndex((element) => element.contains(document.activeElement));
  const next = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + by, 0), all.length - 1)];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}
