// The conversations, kept in this browser alone, and the answers under way.

import { useEffect, useState } from "preact/hooks";
import { input, withAnswer, withReply, type Conversation, type Settings } from "./conversation";
import { isUnderWay, newReply, respond, type Handle, type Model } from "./server";

const PREFIX = "steep.chat.";
const SETTINGS = "steep.settings";

let conversations = Object.keys(localStorage)
  .filter((key) => key.startsWith(PREFIX))
  .map((key) => ended(JSON.parse(localStorage.getItem(key)!)));
let full = false;
const underWay = new Map<string, Handle>();
const readers = new Set<() => void>();

export interface Book {
  /** The newest first. */
  conversations: Conversation[];
  /** By conversation. */
  underWay: ReadonlyMap<string, Handle>;
  /** Whether the browser has no room for more. */
  full: boolean;
}

export function useBook(): Book {
  const [, again] = useState({});
  useEffect(() => {
    const read = () => again({});
    readers.add(read);
    return () => void readers.delete(read);
  }, []);
  return { conversations: conversations.toSorted((a, b) => b.changed - a.changed), underWay, full };
}

/** Shows a conversation as it is now, and keeps it. */
export function keep(talk: Conversation) {
  show(talk);
  try {
    localStorage.setItem(PREFIX + talk.id, JSON.stringify(talk));
    full = false;
  } catch {
    full = true;
  }
}

export function forget(id: string) {
  underWay.get(id)?.stop();
  conversations = conversations.filter((talk) => talk.id !== id);
  localStorage.removeItem(PREFIX + id);
  full = false;
  tellReaders();
}

/** Has the model answer a question of a conversation. */
export function answer(talk: Conversation, question: number, settings: Settings, model: Model) {
  const begun = withAnswer(talk, question, settings, newReply(model));
  const now = () => conversations.find(({ id }) => id === talk.id);
  const handle = respond(model, settings, input(talk, question), (reply) => {
    const before = now();
    if (before) show(withReply(before, begun.leaf!, reply));
  });
  underWay.set(talk.id, handle);
  keep(begun);
  void handle.ended.then(() => {
    underWay.delete(talk.id);
    const last = now();
    if (last) keep(last);
  });
}

export function useSettings(): [Partial<Settings>, (settings: Settings) => void] {
  const [settings, setSettings] = useState<Partial<Settings>>(() => JSON.parse(localStorage.getItem(SETTINGS) ?? "{}"));
  return [
    settings,
    (changed) => {
      setSettings(changed);
      localStorage.setItem(SETTINGS, JSON.stringify(changed));
    },
  ];
}

function show(talk: Conversation) {
  conversations = [talk, ...conversations.filter(({ id }) => id !== talk.id)];
  tellReaders();
}

function tellReaders() {
  for (const read of readers) read();
}

/** Answers that were under way when the page was left have been stopped by that. */
function ended(talk: Conversation): Conversation {
  const turns = talk.turns.map((turn) =>
    turn.role === "assistant" && isUnderWay(turn.reply)
      ? { ...turn, reply: { ...turn.reply, state: "stopped" as const } }
      : turn,
  );
  return { ...talk, turns };
}

addEventListener("pagehide", () => {
  for (const talk of conversations) if (underWay.has(talk.id)) keep(talk);
  for (const handle of underWay.values()) handle.abort();
});
