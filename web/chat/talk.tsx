// One conversation, and where the next question is written.

import { useEffect, useRef, useState } from "preact/hooks";
import { step, useKeys } from "../src/keys";
import { Answer } from "./answer";
import { answer, keep, type Book } from "./book";
import {
  fitting,
  isBusy,
  newConversation,
  path,
  shown,
  siblings,
  title,
  toMarkdown,
  withQuestion,
  type Conversation,
  type Settings,
  type Turn,
} from "./conversation";
import { Dial } from "./dial";
import { Examples } from "./examples";
import { Question } from "./question";
import { isUnderWay, type Model, type Reply } from "./server";
import { useStick } from "./stick";

interface TalkProps {
  /** null: one that has not begun. */
  talk: Conversation | null;
  book: Book;
  models: Model[];
  settings: Partial<Settings>;
  onSettings: (settings: Settings) => void;
  onAnnounce: (words: string) => void;
}

const ANNOUNCED: Partial<Record<Reply["state"], string>> = {
  thinking: "Thinking",
  done: "Answer ready",
  full: "Answer ready, cut off",
  stopped: "Stopped",
  failed: "No answer",
};

export function Talk({ talk, book, models, settings: chosen, onSettings, onAnnounce }: TalkProps) {
  const { model, settings } = fitting(chosen, models);
  const turns = talk ? path(talk) : [];
  const last = turns.at(-1);
  const handle = talk ? book.underWay.get(talk.id) : undefined; // none if it is another tab's
  const busy = talk !== null && isBusy(talk);
  const reply = last?.role === "assistant" ? last.reply : null;
  const scroller = useRef<HTMLElement>(null);
  const { atEnd, toEnd } = useStick(scroller, true);

  useAnnounced(reply, onAnnounce);

  function begin(talk: Conversation, question: number) {
    onAnnounce(""); // words that do not change are not told again
    answer(talk, question, settings, model);
  }
  function ask(text: string, parent: number | null) {
    const asked = withQuestion(talk ?? newConversation(), parent, text);
    begin(asked, asked.leaf!);
    location.hash = `#/talk/${asked.id}`;
    toEnd();
  }
  const again = (turn: Turn) => talk && begin(talk, turn.parent!);

  useKeys({
    Escape: () => handle?.stop(),
    r: () => !busy && last?.role === "assistant" && again(last),
    e: () => clickLast(".edit"),
    o: () => clickLast(".fold"),
    a: () => reply?.state === "thinking" && handle?.answerNow(),
    j: () => step(".turn", 1),
    k: () => step(".turn", -1),
  });

  return (
    <>
      <main ref={scroller} class="scroller">
        <div class="talk">
          {talk && <Head talk={talk} />}
          {!talk && <Welcome model={model} onAsk={(text) => ask(text, null)} />}
          {turns.map((turn, i) => (
            <article class={`turn ${turn.role}`} key={turn.id} tabIndex={-1} aria-label={turn.role === "user" ? "you" : turn.model}>
              {turn.role === "user" ? (
                <Asked text={turn.text} busy={busy} onEdit={(text) => ask(text, turn.parent)} />
              ) : (
                <>
                  <header>
                    {[turn.model, turn.effort, turn.limit !== null && `at most ${turn.limit} tokens of thought`].filter(Boolean).join(", ")}
                  </header>
                  <Answer question={questionOf(turns, i)} reply={turn.reply} />
                </>
              )}
              <div class="tools">
                {talk && <Branches talk={talk} turn={turn} />}
                {turn.role === "assistant" && turn.reply.text && <Copy text={turn.reply.text} />}
                {turn.role === "assistant" && (
                  <button type="button" disabled={busy} onClick={() => again(turn)}>
                    regenerate
                  </button>
                )}
              </div>
            </article>
          ))}
        </div>
      </main>
      <footer class="composer">
        {!atEnd && (
          <button type="button" class="to-end" onClick={toEnd}>
            to the end
          </button>
        )}
        <Question onAsk={(text) => ask(text, talk?.leaf ?? null)} busy={busy} onStop={() => handle?.stop()}>
          {reply?.state === "thinking" && handle && (
            <button type="button" onClick={handle.answerNow}>
              Answer now
            </button>
          )}
          {handle && (
            <button type="button" onClick={handle.stop}>
              Stop
            </button>
          )}
        </Question>
        <Dial models={models} model={model} settings={settings} onChange={onSettings} />
      </footer>
    </>
  );
}

/** Tells a screen reader when thinking begins, and how what was under way has ended. */
function useAnnounced(reply: Reply | null, onAnnounce: (words: string) => void) {
  const before = useRef<Reply>(null);
  useEffect(() => {
    const words = reply && ANNOUNCED[reply.state];
    if (words && (reply.state === "thinking" || (before.current && isUnderWay(before.current)))) onAnnounce(words);
    before.current = reply;
  }, [reply?.state]);
}

function clickLast(selector: string) {
  [...document.querySelectorAll<HTMLElement>(selector)].at(-1)?.click();
}

function questionOf(turns: Turn[], answer: number): string {
  const turn = turns[answer - 1];
  return turn?.role === "user" ? turn.text : "";
}

function Welcome({ model, onAsk }: { model: Model; onAsk: (text: string) => void }) {
  return (
    <section class="welcome">
      <h1>Ask {model.id}</h1>
      <Examples onAsk={onAsk} />
      <p class="small">
        Answers to these are checked in this page. <a href="#/compare">Compare</a> asks one question at four budgets.
      </p>
      {model.thoughts === "summary" && <p class="small">Of thoughts this server tells how long they were, not what they say.</p>}
      {model.thoughts === "hidden" && <p class="small">This server does not show thoughts.</p>}
    </section>
  );
}

function Head({ talk }: { talk: Conversation }) {
  return (
    <div class="head">
      <h1 class="unseen">{title(talk)}</h1>
      <span class="tools">
        export
        <button type="button" onClick={() => save(talk, "md", toMarkdown(talk), "text/markdown")}>
          Markdown
        </button>
        <button type="button" onClick={() => save(talk, "json", JSON.stringify(talk, null, 2), "application/json")}>
          JSON
        </button>
      </span>
    </div>
  );
}

function save(talk: Conversation, ending: string, text: string, type: string) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = `${title(talk).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "chat"}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function Asked({ text, busy, onEdit }: { text: string; busy: boolean; onEdit: (text: string) => void }) {
  const [editing, setEditing] = useState(false);
  if (editing)
    return (
      <Question text={text} label="edit the question" busy={busy} onAsk={onEdit} onStop={() => setEditing(false)}>
        <button type="button" onClick={() => setEditing(false)}>
          Cancel
        </button>
      </Question>
    );
  return (
    <>
      <p class="asked">{text}</p>
      <button type="button" class="edit" disabled={busy} onClick={() => setEditing(true)}>
        edit
      </button>
    </>
  );
}

function Branches({ talk, turn }: { talk: Conversation; turn: Turn }) {
  const all = siblings(talk, turn);
  const at = all.indexOf(turn);
  if (all.length < 2) return null;
  const turnTo = (by: number) => keep(shown(talk, all[at + by]!.id));
  return (
    <span class="branches">
      <button type="button" aria-label="previous version" disabled={at === 0} onClick={() => turnTo(-1)}>
        ‹
      </button>
      {at + 1}/{all.length}
      <button type="button" aria-label="next version" disabled={at === all.length - 1} onClick={() => turnTo(1)}>
        ›
      </button>
    </span>
  );
}

/** Browsers let pages copy where they were loaded safely: over https, or from this machine. */
function Copy({ text }: { text: string }) {
  const [copied, setCopied] = useState(false);
  if (!navigator.clipboard) return null;
  return (
    <button type="button" onClick={() => void navigator.clipboard.writeText(text).then(() => setCopied(true))}>
      {copied ? "copied" : "copy"}
    </button>
  );
}
