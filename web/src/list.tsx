// The list of runs.

import { useState } from "preact/hooks";
import { useAnswer, type EvaluationLine, type RunLine } from "./api";
import { step, useKeys } from "./keys";
import { Evaluations, Reading, Spark, StatusWord, Trouble } from "./parts";
import { link, reportOn } from "./route";
import { date, duration, number } from "./words";

const RUNNING_S = 3;
const RESTING_S = 15;

export function List() {
  const { value: lines, error } = useAnswer<RunLine[]>("runs", {}, (all) =>
    all.some((line) => line.summary.status === "running") ? RUNNING_S : RESTING_S,
  );
  const { value: evaluations } = useAnswer<EvaluationLine[]>("evaluations", {}, () => RESTING_S);
  const [words, setWords] = useState("");
  const [chosen, setChosen] = useState<string[]>([]);
  const found = (lines ?? []).filter((line) => words.toLowerCase().split(/\s+/).every((w) => text(line).includes(w)));

  function choose(name: string) {
    setChosen(chosen.includes(name) ? chosen.filter((other) => other !== name) : [...chosen, name]);
  }
  function compare() {
    if (chosen.length > 1) location.hash = link("compare", "", { run: chosen });
  }
  useKeys({
    "/": () => document.querySelector<HTMLInputElement>("input[type=search]")?.focus(),
    j: () => step(".runs a.name", 1),
    k: () => step(".runs a.name", -1),
    x: () => {
      const name = document.activeElement?.getAttribute("data-run");
      if (name) choose(name);
    },
    c: compare,
    r: () => document.activeElement?.closest(".runs li")?.querySelector<HTMLAnchorElement>("a.report")?.click(),
  });

  return (
    <main>
      <h1>Runs</h1>
      <Trouble error={error} />
      {!lines && !error && <Reading />}
      {lines && !lines.length && (
        <p>
          There are no runs here yet. Begin one with <code>steep train recipes/nano.py</code>; it appears by itself.
        </p>
      )}
      {lines && lines.length > 0 && (
        <div class="bar">
          <input type="search" placeholder="name, status or stage" aria-label="filter runs" value={words}
            onInput={(e) => setWords(e.currentTarget.value)} />
          <button type="button" disabled={chosen.length < 2} onClick={compare}>
            {chosen.length < 2 ? "choose two or more to compare" : `compare ${chosen.length} runs`}
          </button>
        </div>
      )}
      <RunRows lines={found} chosen={chosen} onChoose={choose} />
      <Evaluations lines={evaluations ?? []} />
    </main>
  );
}

/** Rows of runs; those of a study's arms are set in. */
export function RunRows({ lines, chosen, onChoose }: { lines: RunLine[]; chosen?: string[]; onChoose?: (name: string) => void }) {
  return (
    <ul class="runs">
      {lines.map(({ summary: run, metric, spark, report }) => {
        const depth = run.name.includes("/") && onChoose ? "arm" : "";
        const last = spark.at(-1);
        return (
          <li key={run.name} class={depth}>
            {onChoose && (
              <input type="checkbox" aria-label={`compare ${run.name}`} checked={chosen?.includes(run.name) ?? false}
                disabled={run.status === "unreadable"} onChange={() => onChoose(run.name)} />
            )}
            <a class="name" data-run={run.name} href={link("run", run.name)}>
              {run.name}
            </a>
            <StatusWord status={run.status} />
            <span class="where">
              {[run.stage, run.step == null ? "" : `step ${run.step}`].filter(Boolean).join(", ")}{" "}
              {report && <a class="report" href={reportOn(run.name)} aria-label={`report on ${run.name}`}>report</a>}
            </span>
            <span class="time" title={run.created && `begun ${date(run.created)}`}>
              {run.elapsed_s ? duration(run.elapsed_s) : ""}
            </span>
            <Spark values={spark} label={`${metric} so far`} />
            <span class="last">{metric && last != null ? `${metric} ${number(last)}` : ""}</span>
          </li>
        );
      })}
    </ul>
  );
}

function text({ summary: run }: RunLine): string {
  return `${run.name} ${run.status} ${run.stage ?? ""}`.toLowerCase();
}
