// Several runs: their curves over each other, and in what their configs differ.

import { useEffect, useMemo, useState } from "preact/hooks";
import { ask, useAnswer, type Comparison, type RunView } from "./api";
import { Courses, type Shown } from "./courses";
import { Table, Trouble } from "./parts";
import { link, reword, type Route } from "./route";

const EVERY_S = 5;
const FEW = 30; // fields that are shown unfolded

export function Compare({ route }: { route: Route }) {
  const names = route.words.getAll("run");
  const { value: comparison, error } = useAnswer<Comparison>("compare", { run: names });
  const runs = useRuns(names);
  const stages = [...new Set(runs.flatMap((run) => run.stages.filter((s) => s.charts.length + s.budgets.length).map((s) => s.name)))];
  const wanted = route.words.get("stage");
  const stage = stages.find((one) => one === wanted) ?? (stages.includes("rl") ? "rl" : stages.at(-1));
  const shown = useMemo(
    () => runs.flatMap((run): Shown[] => run.stages.filter((s) => s.name === stage).map((s) => ({ run, stage: s }))),
    [runs, stage],
  );
  return (
    <main>
      <h1>{names.length} runs</h1>
      <Trouble error={error} />
      <div class="bar" role="group" aria-label="stage">
        {stages.map((one) => (
          <button key={one} type="button" aria-pressed={one === stage} onClick={() => reword(route, { stage: one })}>
            {one}
          </button>
        ))}
      </div>
      {stage && <Courses key={stage} shown={shown} />}
      {comparison && (
        <>
          <h2>What differs</h2>
          {comparison.config.length ? (
            <details open={comparison.config.length <= FEW}>
              <summary>{comparison.config.length} fields</summary>
              <Table heads={["", ...names]} label="what differs">
              {comparison.config.map((row) => (
                <tr key={row.key}>
                  <td>
                    <code>{row.key.replace(/^config\./, "")}</code>
                  </td>
                  {row.values.map((value, i) => (
                    <td key={i} class="text wrap">
                      {typeof value === "string" ? value : JSON.stringify(value)}
                    </td>
                  ))}
                </tr>
              ))}
              </Table>
            </details>
          ) : (
            <p>The configs are the same.</p>
          )}
        </>
      )}
      <p class="small">
        {names.map((name) => (
          <a key={name} href={link("run", name)}>
            {name}
          </a>
        ))}
      </p>
    </main>
  );
}

/** The runs that can be read, asked for again and again. */
function useRuns(names: string[]): RunView[] {
  const [runs, setRuns] = useState<RunView[]>([]);
  const key = names.join(" ");
  useEffect(() => {
    const abort = new AbortController();
    async function again() {
      if (document.hidden) return;
      const asked = names.map((run) => ask<RunView>("run", { run }, abort.signal));
      const found = (await Promise.allSettled(asked)).flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
      if (!abort.signal.aborted) setRuns((before) => (JSON.stringify(before) === JSON.stringify(found) ? before : found));
    }
    void again();
    const timer = setInterval(again, 1000 * EVERY_S);
    return () => {
      abort.abort();
      clearInterval(timer);
    };
  }, [key]);
  return runs;
}
