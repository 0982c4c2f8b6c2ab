// Where the reader is: everything stands behind the #, so that a place can be kept, shared and gone back to.

import { useEffect, useState } from "preact/hooks";
import { query, type Params } from "./api";

export interface Route {
  page: "list" | "run" | "compare";
  run: string;
  words: URLSearchParams;
}

export function parse(hash: string): Route {
  const [path = "", words = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [page, ...name] = path.split("/").map(decodeURIComponent);
  return {
    page: page === "run" || page === "compare" ? page : "list",
    run: name.join("/"),
    words: new URLSearchParams(words),
  };
}

export function link(page: Route["page"], run = "", params: Params = {}): string {
  const path = page === "list" ? "" : [page, ...run.split("/").filter(Boolean)].map(encodeURIComponent).join("/");
  const words = query(params);
  return `#/${path}${words && `?${words}`}`;
}

/** The page that `steep report` wrote on a run or an evaluation. */
export function reportOn(name: string): string {
  return `./report?${query({ of: name })}`;
}

/** The same place with other words; it replaces the one in the history, so that "back" leaves a page at once. */
export function reword(route: Route, changes: Params) {
  const words: Params = {};
  for (const key of route.words.keys()) words[key] = route.words.getAll(key);
  history.replaceState(null, "", link(route.page, route.run, { ...words, ...changes }));
  dispatchEvent(new HashChangeEvent("hashchange"));
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => parse(location.hash));
  useEffect(() => {
    const moved = () => setRoute(parse(location.hash));
    addEventListener("hashchange", moved);
    moved(); // it may have, since the first look
    return () => removeEventListener("hashchange", moved);
  }, []);
  return route;
}
