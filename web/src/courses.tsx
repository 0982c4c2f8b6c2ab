// The curves of one stage, of one run or of several laid over each other.

import { useEffect, useMemo, useState } from "preact/hooks";
import { ask, type BudgetCurve, type ChartOf, type RunView, type StageView, type Thinned } from "./api";
import { Chart, type Curve, type Range } from "./chart";

const POINTS = 400;

/** A run with the stage of it that is shown. */
export interface Shown {
  run: RunView;
  stage: StageView;
}

export function Courses({ shown }: { shown: Shown[] }) {
  const [range, setRange] = useState<Range>(null);
  const [all, setAll] = useState(false);
  const charts = useMemo(() => united(shown), [shown]);
  const main = charts.filter((chart) => chart.main);
  const more = charts.filter((chart) => !chart.main);
  const drawn = all ? charts : main;
  const courses = useCourses(shown, drawn, range);
  const events = useMemo(() => shown.flatMap(({ stage }) => stage.events), [shown]);

  const curves = useMemo(
    () => drawn.map((chart) => curvesOf(chart, shown, courses)),
    [drawn.length, shown, courses],
  );
  return (
    <>
      {range && (
        <p class="small">
          steps {range[0]} to {range[1]}{" "}
          <button type="button" onClick={() => setRange(null)}>
            all steps
          </button>
        </p>
      )}
      <div class="panels">
        {drawn.map((chart, i) => (
          <Chart key={chart.title} title={titleOf(chart, shown)} unit={chart.unit} curves={curves[i] ?? []} events={events}
            range={range} onRange={setRange} />
        ))}
      </div>
      {more.length > 0 && (
        <p>
          <button type="button" aria-expanded={all} onClick={() => setAll(!all)}>
            {all ? "fewer curves" : `${more.length} more curves`}
          </button>
        </p>
      )}
      <BudgetCharts shown={shown} />
    </>
  );
}

/** The charts that any of the runs has, by title. */
function united(shown: Shown[]): ChartOf[] {
  const all = new Map<string, ChartOf>();
  for (const { stage } of shown) for (const chart of stage.charts) if (!all.has(chart.title)) all.set(chart.title, chart);
  return [...all.values()];
}

/** Of several runs only the first line is drawn, which is that of the largest budget. */
function linesOf(chart: ChartOf, several: boolean) {
  return several ? chart.lines.slice(0, 1) : chart.lines;
}

function titleOf(chart: ChartOf, shown: Shown[]): string {
  const one = shown.length > 1 && chart.lines.length > 1;
  return one ? `${chart.title}, ${chart.lines[0]!.label}` : chart.title;
}

function curvesOf(chart: ChartOf, shown: Shown[], courses: Record<string, Thinned>[]): Curve[] {
  const several = shown.length > 1;
  const curves: Curve[] = [];
  shown.forEach(({ run }, i) =>
    linesOf(chart, several).forEach((line, j) => {
      const data = courses[i]?.[line.metric];
      const looks = several ? { label: run.name, colour: i, dash: Math.floor(i / 6) } : { label: chart.lines.length > 1 ? line.label : "", colour: j, dash: 0 };
      if (data?.steps.length) curves.push({ ...looks, data });
    }),
  );
  return curves;
}

/** What the charts need, of each run; read again when a run has grown. */
function useCourses(shown: Shown[], charts: ChartOf[], range: Range): Record<string, Thinned>[] {
  const [courses, setCourses] = useState<Record<string, Thinned>[]>([]);
  const metric = charts.flatMap((chart) => linesOf(chart, shown.length > 1).map((line) => line.metric));
  const key = JSON.stringify([shown.map(({ run, stage }) => [run.name, stage.name, stage.version]), metric, range]);
  useEffect(() => {
    const abort = new AbortController();
    const [first, last] = range ?? [null, null];
    const asked = shown.map(({ run, stage }) =>
      metric.length
        ? ask<Record<string, Thinned>>("courses", { run: run.name, stage: stage.name, metric, points: POINTS, first, last }, abort.signal)
        : {},
    );
    Promise.all(asked).then(setCourses, () => {}); // the poll of the run tells what is wrong
    return () => abort.abort();
  }, [key]);
  return courses;
}

/** Accuracy on held-out problems by thinking budget, where the stage is an evaluation. */
function BudgetCharts({ shown }: { shown: Shown[] }) {
  const charts = useMemo(() => {
    const by = new Map<string, { name: string; curve: BudgetCurve }[]>();
    for (const { run, stage } of shown) {
      for (const curve of stage.budgets) {
        const title = `${curve.task}, ${curve.mode}`;
        const name = shown.length > 1 ? `${run.name} ${curve.model}` : curve.model;
        by.set(title, [...(by.get(title) ?? []), { name, curve }]);
      }
    }
    return [...by].map(([title, lines]) => {
      const budgets = [...new Set(lines.flatMap(({ curve }) => curve.budgets))].sort((a, b) => a - b);
      const curves = lines.map(({ name, curve }, i): Curve => ({
        label: name,
        colour: i,
        dash: 0,
        data: { steps: curve.budgets.map((b) => budgets.indexOf(b)), low: curve.lows, high: curve.highs, smooth: curve.values },
      }));
      return { title, curves, places: budgets.map(String) };
    });
  }, [shown]);
  if (!charts.length) return null;
  return (
    <div class="panels">
      {charts.map(({ title, curves, places }) => (
        <Chart key={title} title={title} unit="accuracy by thinking tokens" curves={curves} places={places} />
      ))}
    </div>
  );
}
