// The server's API (docs/serving.md), as far as the page uses it.

export interface Model {
  id: string;
  context: number;
  thinks: boolean;
  efforts: Record<string, number | null>;
  default_effort: string | null;
  max_thought: number | null;
  thoughts: "full" | "summary" | "hidden";
}

export interface Asked {
  model: string;
  effort: string | null;
  /** Thinking tokens at most; null: what the effort allows. */
  limit: number | null;
  seed?: number;
}

/** An answer, as far as it has come. */
export interface Reply {
  state: "waiting" | "thinking" | "answering" | "done" | "stopped" | "full" | "failed";
  /** What of the thought this server shows. */
  thoughts: Model["thoughts"];
  thought: string;
  /** What the server says of the thought. */
  summary: string;
  text: string;
  error: string;
  /** In milliseconds: when it was asked for, when its thought began, what this took (null: none), and all of it. */
  began: number;
  thought_began: number | null;
  thought_ms: number | null;
  took_ms: number | null;
  /** The thought's so far. */
  thought_tokens: number;
  /** What was not thought: the closing of the thought, if there was one, and the answer. */
  answer_tokens: number | null;
}

export interface Handle {
  /** Settled when the answer has ended, however it did. */
  ended: Promise<void>;
  stop: () => void;
  /** At once, without what the server would still say. */
  abort: () => void;
  answerNow: () => void;
}

type Item = { type: "reasoning"; content: { type: "reasoning_text"; text: string }[] } | { role: string; content: string };
export type Input = Item[];

interface ServerEvent {
  type: string;
  delta: string;
  text: string;
  reasoning_tokens: number;
  item: { type: string };
  response: {
    id: string;
    status: string;
    error: { message: string } | null;
    usage: { output_tokens: number; output_tokens_details: { reasoning_tokens: number } } | null;
  };
}

const KEY = "steep.key";
const ENDS: Record<string, Reply["state"]> = { completed: "done", cancelled: "stopped", incomplete: "full" };

export class KeyNeeded extends Error {}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const setKey = (key: string) => sessionStorage.setItem(KEY, key);

export const isUnderWay = (reply: Reply) => ["waiting", "thinking", "answering"].includes(reply.state);

export async function listModels(): Promise<Model[]> {
  return (await (await call("models")).json()).data;
}

export const newReply = (model: Model): Reply => ({
  state: "waiting",
  thoughts: model.thoughts,
  thought: "",
  summary: "",
  text: "",
  error: "",
  began: Date.now(),
  thought_began: null,
  thought_ms: null,
  took_ms: null,
  thought_tokens: 0,
  answer_tokens: null,
});

/** Asks for an answer. `changed` is told what has come, once a frame at most, and at last how it ended. */
export function respond(model: Model, asked: Asked, input: Input, changed: (reply: Reply) => void): Handle {
  const abort = new AbortController();
  let reply = newReply(model);
  let id = "";
  let frame = 0;

  function change(news: Partial<Reply>) {
    reply = { ...reply, ...news };
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      changed(reply);
    });
  }

  function hear(event: ServerEvent) {
    switch (event.type) {
      case "response.created":
        id = event.response.id;
        break;
      case "response.output_item.added":
        if (event.item.type === "reasoning") change({ state: "thinking", thought_began: Date.now() });
        else change({ state: "answering" });
        break;
      case "response.reasoning_text.delta":
        change({ thought: reply.thought + event.delta, thought_tokens: event.reasoning_tokens });
        break;
      case "response.reasoning_summary_text.done":
        change({ summary: event.text });
        break;
      case "response.output_item.done":
        if (event.item.type !== "reasoning") break;
        change({ state: "answering", thought_ms: Date.now() - reply.thought_began! });
        break;
      case "response.output_text.delta":
        change({ text: reply.text + event.delta });
        break;
      case "response.completed":
      case "response.incomplete":
      case "response.failed": {
        const { status, error, usage } = event.response;
        const thought_tokens = usage?.output_tokens_details.reasoning_tokens ?? reply.thought_tokens;
        change({
          state: ENDS[status] ?? "failed",
          error: error?.message ?? "",
          thought_tokens,
          answer_tokens: usage && usage.output_tokens - thought_tokens,
        });
      }
    }
  }

  async function listen() {
    const { effort, limit, ...rest } = asked;
    const reasoning = model.thinks ? { effort, max_tokens: limit, summary: "auto" } : {};
    const body = JSON.stringify({ ...rest, input, reasoning, stream: true, store: false });
    try {
      const response = await call("responses", { method: "POST", body, signal: abort.signal });
      for await (const event of events(response.body!)) hear(event);
      if (isUnderWay(reply)) change({ state: "failed", error: "the server ended the answer" });
    } catch (error) {
      change(abort.signal.aborted ? { state: "stopped" } : { state: "failed", error: reason(error) });
    }
    cancelAnimationFrame(frame);
    changed({ ...reply, took_ms: Date.now() - reply.began });
  }

  async function tell(what: "cancel" | "answer_now") {
    await call(`responses/${id}/${what}`, { method: "POST" });
  }

  return {
    ended: listen(),
    stop: () => {
      if (!isUnderWay(reply)) return;
      if (id) void tell("cancel").catch(() => abort.abort());
      else abort.abort();
    },
    abort: () => abort.abort(),
    answerNow: () => void tell("answer_now").catch(() => {}), // it has ended by itself meanwhile
  };
}

export function reason(error: unknown): string {
  if (error instanceof TypeError) return "the server does not answer: is `steep serve` still running?";
  return error instanceof Error ? error.message : String(error);
}

async function call(path: string, init: RequestInit = {}): Promise<Response> {
  const headers: Record<string, string> = { "content-type": "application/json" };
  const key = sessionStorage.getItem(KEY);
  // A header's characters stand for bytes; the key's are UTF-8.
  if (key) headers.authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}`;
  const response = await fetch(`./v1/${path}`, { ...init, headers });
  if (response.ok) return response;
  const { error } = await response.json();
  throw response.status === 401 ? new KeyNeeded(error.message) : new Error(error.message);
}

async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop()!;
    // A comment says only that the server is there.
    for (const part of parts) if (!part.startsWith(":")) yield JSON.parse(part.slice(part.indexOf("data: ") + 6));
  }
}
