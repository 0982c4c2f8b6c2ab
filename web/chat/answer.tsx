// An answer with the thought before it.

import { useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { duration } from "../src/words";
import { check } from "./check";
import { figures, spent } from "./conversation";
import type { Block } from "./markdown";
import { isUnderWay, type Reply } from "./server";
import { useStick } from "./stick";

const ENDS: Partial<Record<Reply["state"], string>> = { stopped: "Stopped.", full: "Cut off: the limit of its tokens was reached." };

interface AnswerProps {
  question: string;
  reply: Reply;
}

export function Answer({ question, reply }: AnswerProps) {
  const failed = `${reply.text ? "Broken off" : "No answer"}: ${reply.error}`;
  const end = reply.state === "failed" ? failed : ENDS[reply.state];
  return (
    <>
      {reply.state === "waiting" && <p class="small reading">waiting…</p>}
      {(reply.state === "thinking" || reply.thought || reply.thought_ms !== null) && <Thought reply={reply} />}
      {reply.text && <Text text={reply.text} />}
      {end && <p class="missing">{end}</p>}
      {!isUnderWay(reply) && <Figures question={question} reply={reply} />}
    </>
  );
}

/** Open while it is thought, and folded from then on, unless the reader has said otherwise. */
function Thought({ reply }: { reply: Reply }) {
  const [choice, setChoice] = useState<boolean | null>(null);
  const id = useId();
  const box = useRef<HTMLDivElement>(null);
  const thinking = reply.state === "thinking";
  const { stick } = useStick(box, thinking);
  useLayoutEffect(stick, [reply.thought]);
  const open = choice ?? thinking;
  return (
    <section class="thought">
      <button type="button" class="fold" aria-expanded={open} aria-controls={id} onClick={() => setChoice(!open)}>
        {thinking ? <Thinking reply={reply} /> : thoughtFor(reply)}
      </button>
      <div id={id} class="folded" inert={!open}>
        <div ref={box} tabIndex={open ? 0 : -1} role="group" aria-label="thought">
          {reply.thought && <pre>{reply.thought}</pre>}
          {reply.thoughts === "summary" && <p>{reply.summary} This server tells how long a thought is, not what it says.</p>}
          {reply.thoughts === "hidden" && <p>This server does not show thoughts.</p>}
          {reply.thoughts === "full" && reply.summary && <p>{reply.summary}</p>}
        </div>
      </div>
    </section>
  );
}

function thoughtFor({ thought_ms }: Reply): string {
  return thought_ms === null ? "Thought, broken off" : `Thought for ${spent(thought_ms)}`;
}

function Thinking({ reply }: { reply: Reply }) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  const tokens = reply.thought_tokens ? `, ${reply.thought_tokens.toLocaleString("en")} tokens` : "";
  return <>{`Thinking, ${duration(Math.max(now - reply.thought_began!, 0) / 1000)}${tokens}`}</>;
}

function Figures({ question, reply }: AnswerProps) {
  const verdict = reply.state === "done" || reply.state === "full" ? check(question, reply.text) : null;
  return (
    <p class="figures">
      {verdict && (
        <span class={`verdict ${verdict.word.replace(" ", "-")}`} title={verdict.reason}>
          {verdict.word}
        </span>
      )}
      {figures(reply).join(", ")}
    </p>
  );
}

/** A calculation is shown as it stands; in Markdown its signs would mean something else. */
const CALCULATION = /^(?!.*\*\*)[\s\d.,=()+*/×÷\u2212-]*$/;

let markdown: typeof import("./markdown") | null = null;

function Text({ text }: { text: string }) {
  const [, again] = useState({});
  useEffect(() => {
    if (!markdown) void import("./markdown").then((loaded) => (markdown = loaded)).then(() => again({}));
  }, []);
  // An answer that stays as it is costs nothing while another grows.
  return useMemo(() => {
    if (!markdown || CALCULATION.test(text)) return <p class="said plain">{text}</p>;
    return (
      <div class="said">
        {markdown.blocks(text).map((block, i) => (
          <Rendered key={i} block={block} />
        ))}
      </div>
    );
  }, [text, markdown]);
}

/** Rendered again only if what it says has changed. */
function Rendered({ block }: { block: Block }) {
  const place = useRef<HTMLDivElement>(null);
  const [libraries, again] = useState({});
  useLayoutEffect(
    () => place.current!.replaceChildren(...markdown!.nodes(block, () => again({}))),
    [block.raw, libraries],
  );
  return <div ref={place} />;
}
