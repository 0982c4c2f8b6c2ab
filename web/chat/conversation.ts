// A conversation is a tree: a question that is edited, or an answer that is made again, stands beside the one before.

import { duration } from "../src/words";
import { isUnderWay, type Input, type Model, type Reply } from "./server";

interface Question {
  id: number;
  parent: number | null;
  role: "user";
  text: string;
}

interface Answer {
  id: number;
  parent: number;
  role: "assistant";
  model: string;
  effort: string | null;
  limit: number | null;
  reply: Reply;
}

export type Turn = Question | Answer;

export interface Conversation {
  id: string;
  changed: number;
  /** In the order in which they were added; the id of each is its place. */
  turns: Turn[];
  /** The turn that is shown last. */
  leaf: number | null;
}

export interface Settings {
  model: string;
  effort: string | null;
  limit: number | null;
}

const TITLE = 60;

export const newConversation = (): Conversation => ({
  id: Date.now().toString(36),
  changed: Date.now(),
  turns: [],
  leaf: null,
});

export function title({ turns }: Conversation): string {
  const first = turns[0]?.role === "user" ? turns[0].text.trim() : "";
  return first.length > TITLE ? `${first.slice(0, TITLE)}…` : first;
}

/** The turns that are shown, or those up to one of them. */
export function path({ turns, leaf }: Conversation, last = leaf): Turn[] {
  const found: Turn[] = [];
  for (let at = last; at !== null; at = turns[at]!.parent) found.unshift(turns[at]!);
  return found;
}

/** Whether a question of it is being answered, in this tab or another. */
export const isBusy = ({ turns }: Conversation) => turns.some((turn) => turn.role === "assistant" && isUnderWay(turn.reply));

export function siblings({ turns }: Conversation, turn: Turn): Turn[] {
  return turns.filter((other) => other.parent === turn.parent);
}

export function withQuestion(talk: Conversation, parent: number | null, text: string): Conversation {
  return grown(talk, { id: talk.turns.length, parent, role: "user", text });
}

export function withAnswer(talk: Conversation, parent: number, asked: Settings, reply: Reply): Conversation {
  return grown(talk, { id: talk.turns.length, parent, role: "assistant", ...asked, reply });
}

function grown(talk: Conversation, turn: Turn): Conversation {
  return { ...talk, changed: Date.now(), turns: [...talk.turns, turn], leaf: turn.id };
}

export function withReply(talk: Conversation, id: number, reply: Reply): Conversation {
  return { ...talk, turns: talk.turns.map((turn) => (turn.id === id ? ({ ...turn, reply } as Answer) : turn)) };
}

/** Shows a turn, and of what came after it the newest. */
export function shown(talk: Conversation, id: number): Conversation {
  let leaf = id;
  for (let next: Turn | undefined; (next = talk.turns.findLast((turn) => turn.parent === leaf)); ) leaf = next.id;
  return { ...talk, leaf };
}

/** What a model is asked with: the turns up to a question. */
export function input(talk: Conversation, question: number): Input {
  return path(talk, question).flatMap((turn): Input => {
    if (turn.role === "user") return [{ role: "user", content: turn.text }];
    const { thought, text } = turn.reply;
    const message = { role: "assistant", content: text };
    return thought ? [{ type: "reasoning", content: [{ type: "reasoning_text", text: thought }] }, message] : [message];
  });
}

export function toMarkdown(talk: Conversation): string {
  const parts = path(talk).flatMap((turn) => {
    if (turn.role === "user") return ["## You", turn.text];
    const { thought, summary, text } = turn.reply;
    const how = [turn.effort && `effort ${turn.effort}`, turn.limit !== null && `at most ${turn.limit} tokens of thought`];
    const counts = [...how, ...figures(turn.reply)].filter(Boolean).join(", ");
    // Set in, it is code: nothing within it can end it.
    const inset = (thought || summary).replace(/^/gm, "    ");
    return [`## ${turn.model}`, counts, ...(inset.trim() ? [inset] : []), text];
  });
  return [`# ${title(talk)}`, ...parts].join("\n\n") + "\n";
}

/** What an answer took. */
export function figures({ thought_ms, thought_tokens, answer_tokens, took_ms }: Reply): string[] {
  const count = (tokens: number) => `${tokens.toLocaleString("en")} ${tokens === 1 ? "token" : "tokens"}`;
  return [
    ...(thought_ms === null ? [] : [`${count(thought_tokens)} of thought`]),
    ...(answer_tokens === null ? [] : [`${count(answer_tokens)} of answer`]),
    ...(took_ms === null ? [] : [spent(took_ms)]),
  ];
}

export function spent(ms: number): string {
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : duration(ms / 1000);
}

/** The settings as far as they fit the models that are served. */
export function fitting(settings: Partial<Settings>, models: Model[]): { model: Model; settings: Settings } {
  const model = models.find(({ id }) => id === settings.model) ?? models[0]!;
  if (!model.thinks) return { model, settings: { model: model.id, effort: null, limit: null } };
  const efforts = Object.keys(model.efforts);
  const effort = [settings.effort, model.default_effort].find((name) => name && efforts.includes(name));
  return { model, settings: { model: model.id, effort: effort ?? efforts[0] ?? null, limit: settings.limit ?? null } };
}
