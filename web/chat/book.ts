// The conversations, kept in this browser alone, and the answers under way.

import { useEffect, useState } from "preact/hooks";
import { input, withAnswer, withReply, type Conversation, type Settings } from "./conversation";
import { isUnderWay, newReply, respond, type Handle, type Model } from "./server";

const PREFIX = "steep.chat.";
const SETTINGS = "steep.settings";

let conversations = Object.keys(localStorage)
  .filter((key) => key.startsWith(PREFIX))
  .flatMap(stored)
  .map(ended);
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
  const [settings, setSettings] = useState<Partial<Settings>>(() => parsed(SETTINGS) ?? {});
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

/** The conversation of a key, if it is there and whole. */
function stored(key: string): Conversation[] {
  const talk = parsed(key);
  return Array.isArray(talk?.turns) ? [talk] : [];
}

function parsed(key: string) {
  try {
    return JSON.parse(localStorage.getItem(key)!);
  } catch {
    return null;
  }
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

// Another tab has changed what is kept, and does so again when an answer under way there has ended. Of one under way
// here, more is known here.
addEventListener("storage", ({ key }) => {
  if (!key?.startsWith(PREFIX)) return;
  const id = key.slice(PREFIX.length);
  if (underWay.has(id)) return;
  conversations = [...conversations.filter((talk) => talk.id !== id), ...stored(key)];
  tellReaders();
});

// A page that is opened takes answers under way for ended, until other tabs have told which of them are theirs.
const tabs = new BroadcastChannel(PREFIX);
tabs.onmessage = ({ data: told }: MessageEvent<Conversation | null>) => {
  if (told) {
    if (!underWay.has(told.id)) show(told);
  } else {
    for (const talk of conversations) if (underWay.has(talk.id)) tabs.postMessage(talk);
  }
};
tabs.postMessage(null);

addEventListener("pagehide", () => {
  for (const talk of conversations) if (underWay.has(talk.id)) keep(ended(talk));
  for (const handle of underWay.values()) handle.abort();
});
