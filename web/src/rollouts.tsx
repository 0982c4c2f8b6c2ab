// What a stage sampled, to leaf through.

import { useAnswer, type Piece, type Rollout, type RolloutPage, type RunView, type StageView } from "./api";
import { step, useKeys } from "./keys";
import { Reading, Trouble } from "./parts";
import { reword, type Route } from "./route";
import { StageButtons, stageOf } from "./stages";

const PAGE = 20;
const MARKS: Record<string, string> = {
  forced: "not chosen by the model: its budget had run out",
  wrong: "a wrong step that stays",
  mended: "a wrong step that is mended later",
  mending: "puts a wrong step right",
};

export function Rollouts({ run, route }: { run: RunView; route: Route }) {
  const has = (stage: StageView) => stage.rollouts > 0;
  const stage = stageOf(run, route.words.get("stage"), has);
  if (!stage) return <p>No rollouts are kept yet.</p>;
  return (
    <>
      <StageButtons stages={run.stages.filter(has)} stage={stage} route={route} />
      <Leaves key={stage.name} run={run.name} stage={stage} route={route} />
    </>
  );
}

function Leaves({ run, stage, route }: { run: string; stage: StageView; route: Route }) {
  const word = (name: string) => route.words.get(name);
  const offset = Number(word("offset") ?? 0);
  const [task, verdict, shortest, longest, first, last] = ["task", "verdict", "shortest", "longest", "first", "last"].map(word);
  const asked = { run, stage: stage.name, task, verdict, shortest, longest, first, last, offset, count: PAGE };
  const { value: page, error } = useAnswer<RolloutPage>("rollouts", asked);

  const set = (name: string) => (event: Event) =>
    reword(route, { [name]: (event.currentTarget as HTMLInputElement | HTMLSelectElement).value, offset: null });
  const turn = (by: number) => {
    const to = offset + by * PAGE;
    if (page && to >= 0 && to < page.matching) {
      reword(route, { offset: to });
      document.querySelector(".leaves")?.scrollIntoView();
    }
  };
  useKeys({
    j: () => step("article", 1),
    k: () => step("article", -1),
    o: () => document.activeElement?.closest("article")?.querySelector("details")?.toggleAttribute("open"),
    n: () => turn(1),
    p: () => turn(-1),
    "/": () => document.querySelector<HTMLElement>(".leaves select")?.focus(),
  });

  if (!page) return error ? <Trouble error={error} /> : <Reading />;
  const [from, to] = page.steps ?? [0, 0];
  return (
    <section class="leaves">
      <Trouble error={error} />
      <div class="bar">
        <Select name="task" every="all tasks" values={page.tasks} value={task} onInput={set("task")} />
        <Select name="verdict" every="all verdicts" values={page.verdicts} value={verdict} onInput={set("verdict")} />
        <Bounds name="thought" unit="tokens" low={shortest} high={longest} least={0} most={page.longest} onLow={set("shortest")} onHigh={set("longest")} />
        <Bounds name={stage.name === "eval" ? "part" : "step"} low={first} high={last} least={from} most={to} onLow={set("first")} onHigh={set("last")} />
        <output>
          {page.matching.toLocaleString("en")} of {page.total.toLocaleString("en")}
        </output>
      </div>
      {page.rows.map((row) => (
        <Leaf key={`${row.step} ${row.row}`} row={row} />
      ))}
      {!page.rows.length && <p>No rollout fits.</p>}
      {page.matching > PAGE && (
        <div class="bar">
          <button type="button" disabled={!offset} onClick={() => turn(-1)}>
            newer
          </button>
          <button type="button" disabled={offset + PAGE >= page.matching} onClick={() => turn(1)}>
            older
          </button>
          <span>
            {(offset + 1).toLocaleString("en")} to {Math.min(offset + PAGE, page.matching).toLocaleString("en")}
          </span>
        </div>
      )}
    </section>
  );
}

interface SelectProps {
  name: string;
  every: string;
  values: string[];
  value: string | null | undefined;
  onInput: (event: Event) => void;
}

function Select({ name, every, values, value, onInput }: SelectProps) {
  return (
    <select aria-label={name} value={value ?? ""} onInput={onInput}>
      <option value="">{every}</option>
      {values.map((one) => (
        <option key={one} value={one}>
          {one}
        </option>
      ))}
    </select>
  );
}

interface BoundsProps {
  name: string;
  unit?: string;
  low: string | null | undefined;
  high: string | null | undefined;
  least: number;
  most: number;
  onLow: (event: Event) => void;
  onHigh: (event: Event) => void;
}

function Bounds({ name, unit = "", low, high, least, most, onLow, onHigh }: BoundsProps) {
  return (
    <span class="bounds">
      {name}{" "}
      <input type="number" aria-label={`${name}, from`} min={least} max={most} placeholder={`${least}`} value={low ?? ""} onChange={onLow} />
      {" to "}
      <input type="number" aria-label={`${name}, to`} min={least} max={most} placeholder={`${most}`} value={high ?? ""} onChange={onHigh} /> {unit}
    </span>
  );
}

function Leaf({ row }: { row: Rollout }) {
  const look = { correct: "good", wrong: "bad" }[row.verdict] ?? "";
  const budget = row.budget == null ? "no budget" : `budget ${row.budget}`;
  const origin = row.model ? `${row.model}, ${row.mode}` : `step ${row.step}`;
  return (
    <article tabIndex={-1}>
      <header>
        <span>
          <b class={look}>{row.verdict}</b>
          {row.reason && `: ${row.reason}`}
        </span>
        <span>
          {row.task}, level {row.level}
        </span>
        <span>
          {budget}, {row.thought_tokens} used{row.interrupted && row.budget ? ", cut" : ""}
        </span>
        <span>{origin}</span>
      </header>
      <div class="prompt">{row.prompt}</div>
      {row.thought.length > 0 && (
        <details>
          <summary>thought{slips(row.thought)}</summary>
          <pre>{pieces(row.thought)}</pre>
        </details>
      )}
      <div class="answer">{pieces(row.answer)}</div>
    </article>
  );
}

function slips(thought: Piece[]): string {
  const count = (mark: string) => thought.filter(([, marks]) => marks.includes(mark)).length;
  const [wrong, mended] = [count("wrong"), count("mended")];
  return [wrong + mended && `, ${wrong + mended} wrong step${wrong + mended > 1 ? "s" : ""}`, mended && `, ${mended} mended`].filter(Boolean).join("");
}

function pieces(parts: Piece[]) {
  return parts.map(([text, marks], i) => {
    const told = marks.split(" ").flatMap((mark) => MARKS[mark] ?? []).join("; ");
    if (told) return <mark key={i} class={marks} title={told}>{text}</mark>;
    return marks ? <span key={i} class={marks}>{text}</span> : text;
  });
}
