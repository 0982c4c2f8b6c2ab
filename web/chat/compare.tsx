// One question at four budgets. All draw with the same seed: it is one thought, cut off at four lengths.

import { useEffect, useRef, useState } from "preact/hooks";
import { useKeys } from "../src/keys";
import { Answer } from "./answer";
import { fitting, type Settings } from "./conversation";
import { ModelPicker } from "./dial";
import { Examples } from "./examples";
import { Question } from "./question";
import { isUnderWay, newReply, respond, type Handle, type Model, type Reply } from "./server";

const BUDGETS = 4;
const SEEDS = 2 ** 31;

interface CompareProps {
  models: Model[];
  settings: Partial<Settings>;
  onSettings: (settings: Settings) => void;
  onAnnounce: (words: string) => void;
}

export function Compare({ models, settings: chosen, onSettings, onAnnounce }: CompareProps) {
  const { model, settings } = fitting(chosen, models);
  const [budgets, setBudgets] = useState<number[]>([]);
  const [asked, setAsked] = useState("");
  const [replies, setReplies] = useState<Reply[]>([]);
  const handles = useRef<Handle[]>([]);
  /** Number of what was asked last: only its news count. */
  const run = useRef(0);
  const busy = replies.some(isUnderWay);
  const stop = () => handles.current.forEach((handle) => handle.stop());

  useEffect(() => {
    setBudgets(usual(model));
    setAsked("");
    setReplies([]);
    return () => {
      run.current++;
      stop();
    };
  }, [model.id]);

  function ask(question: string) {
    const seed = Math.floor(Math.random() * SEEDS);
    const number = ++run.current;
    let stopped = false;
    setAsked(question);
    setReplies(budgets.map(() => newReply(model)));
    onAnnounce("Thinking");
    handles.current = budgets.map((limit, i) =>
      respond(model, { model: model.id, effort: null, limit, seed }, [{ role: "user", content: question }], (reply) => {
        stopped ||= reply.state === "stopped";
        if (number === run.current) setReplies((before) => before.with(i, reply));
      }),
    );
    void Promise.all(handles.current.map(({ ended }) => ended)).then(
      () => number === run.current && onAnnounce(stopped ? "Stopped" : "Answers ready"),
    );
  }

  useKeys({ Escape: stop });

  return (
    <main class="scroller">
      <div class="compare">
        <h1>One question, four budgets</h1>
        <p class="small">The same thought each time, ended after so many tokens; then the model answers from what it has.</p>
        <Question onAsk={ask} busy={busy || !model.thinks} onStop={stop}>
          {busy && (
            <button type="button" onClick={stop}>
              Stop
            </button>
          )}
        </Question>
        <div class="dial">
          <ModelPicker models={models} model={model} disabled={busy} onPick={(id) => onSettings({ ...settings, model: id })} />
          {!model.thinks && <span>answers at once: there is nothing to compare</span>}
        </div>
        {asked ? <p class="asked">{asked}</p> : model.thinks && <Examples onAsk={ask} />}
        <div class="columns">
          {budgets.map((budget, i) => (
            <article key={i} aria-label={`budget ${i + 1}`}>
              <label>
                <input type="number" min={0} max={model.max_thought ?? model.context} value={budget} disabled={busy}
                  aria-label={`budget ${i + 1} in tokens`}
                  onInput={(e) => setBudgets(budgets.with(i, e.currentTarget.valueAsNumber || 0))} />
                tokens of thought
              </label>
              {replies[i] && <Answer key={replies[i].began} question={asked} reply={replies[i]} />}
            </article>
          ))}
        </div>
      </div>
    </main>
  );
}

/** Four of the model's own budgets, from the least to the largest, evenly over its table. */
function usual(model: Model): number[] {
  const fits = (tokens: number | null) => tokens !== null && tokens <= (model.max_thought ?? model.context / 2);
  const own = [...new Set(Object.values(model.efforts).filter(fits) as number[])].sort((a, b) => a - b);
  const count = Math.min(BUDGETS, own.length);
  return Array.from({ length: count }, (_, i) => own[Math.round((i * (own.length - 1)) / Math.max(count - 1, 1))]!);
}
