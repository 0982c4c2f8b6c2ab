// One run: its curves, its rollouts or its config; of a study, its arms.

import { useMemo } from "preact/hooks";
import { useAnswer, type RunLine, type RunView, type StageView } from "./api";
import { Config } from "./config";
import { Courses } from "./courses";
import { useKeys } from "./keys";
import { RunRows } from "./list";
import { Evaluations, Reading, StatusWord, Table, Trouble } from "./parts";
import { link, reportOn, reword, type Route } from "./route";
import { Rollouts } from "./rollouts";
import { StageButtons, stageOf } from "./stages";
import { command, date, duration, number } from "./words";

const RUNNING_S = 2;
const RESTING_S = 15;
const VIEWS = ["curves", "rollouts", "config"] as const;

export function RunPage({ route }: { route: Route }) {
  const { value: run, error } = useAnswer<RunView>("run", { run: route.run }, (answer) =>
    answer.status === "running" ? RUNNING_S : RESTING_S,
  );
  const view = VIEWS.find((one) => one === route.words.get("view")) ?? "curves";
  useKeys({
    "1": () => reword(route, { view: "curves" }),
    "2": () => reword(route, { view: "rollouts" }),
    "3": () => reword(route, { view: "config" }),
    r: () => document.querySelector<HTMLAnchorElement>("a.report")?.click(),
  });
  if (!run || run.name !== route.run) {
    return (
      <main>
        <h1>{route.run}</h1>
        {error ? <Trouble error={error} /> : <Reading />}
      </main>
    );
  }
  return (
    <main>
      <Header run={run} />
      <Trouble error={error} />
      {run.info.error && <Trouble error={`The run failed: ${run.info.error}`} />}
      <nav class="bar" aria-label="views">
        {VIEWS.filter((one) => one !== "rollouts" || run.stages.some((stage) => stage.rollouts)).map((one) => (
          <button key={one} type="button" aria-pressed={one === view} onClick={() => reword(route, { view: one })}>
            {one === "curves" && run.arms.length ? "arms" : one}
          </button>
        ))}
        {run.report && <a class="report" href={reportOn(run.name)}>report</a>}
      </nav>
      {view === "curves" && (run.arms.length ? <Arms run={run} /> : <Curves run={run} route={route} />)}
      {view === "curves" && <Evaluations lines={run.evaluations} />}
      {view === "rollouts" && <Rollouts run={run} route={route} />}
      {view === "config" && <Config run={run} />}
    </main>
  );
}

function Header({ run }: { run: RunView }) {
  const { info } = run;
  const total = run.stages.reduce((sum, stage) => sum + stage.elapsed_s, 0);
  const commit = info.git ? `commit ${info.git.commit.slice(0, 12)}${info.git.dirty ? " with changes" : ""}` : "";
  const machine = [info.machine.cpu, `${info.machine.cores} cores`, ...info.machine.gpus].join(", ");
  const seed = info.seed == null ? "" : `seed ${info.seed}`;
  const resumed = info.resumed.length ? `resumed ${info.resumed.length > 1 ? `${info.resumed.length} times` : "once"}` : "";
  return (
    <>
      <h1>
        {run.name} <StatusWord status={run.status} />
      </h1>
      <p class="small">
        <code>{command(["steep", "train", info.recipe, ...info.overrides])}</code>
        <br />
        {[`begun ${date(info.created)}`, total ? `trained for ${duration(total)}` : "", seed, commit, resumed].filter(Boolean).join(" · ")}
        <br />
        {machine} · torch {info.versions.torch}
      </p>
    </>
  );
}

function Curves({ run, route }: { run: RunView; route: Route }) {
  const has = (stage: StageView) => stage.charts.length + stage.budgets.length > 0;
  const stage = stageOf(run, route.words.get("stage"), has);
  const shown = useMemo(() => (stage ? [{ run, stage }] : []), [run, stage]);
  return (
    <>
      {stage ? (
        <>
          <StageButtons stages={run.stages.filter(has)} stage={stage} route={route} />
          <Courses key={stage.name} shown={shown} />
          <Health stage={stage} />
        </>
      ) : (
        <p>Nothing is recorded yet. Curves appear here with the first step.</p>
      )}
      <Claims run={run} />
    </>
  );
}

function Health({ stage }: { stage: StageView }) {
  if (!stage.events.length) return null;
  return (
    <>
      <h2>Health</h2>
      <Table heads={["step", "rule", "reaction", "what was seen"]} label="health events">
        {stage.events.map((event, i) => (
          <tr key={i}>
            <td>{event.step}</td>
            <td class="text bad">{event.rule}</td>
            <td class="text">{event.reaction}</td>
            <td class="text wrap">{event.message}</td>
          </tr>
        ))}
      </Table>
    </>
  );
}

function Claims({ run }: { run: RunView }) {
  if (!run.claims.length) return null;
  return (
    <>
      <h2>What is claimed</h2>
      <Table heads={["claim", "measured", "interval", "bar", ""]} label="claims">
        {run.claims.map((claim) => (
          <tr key={claim.id}>
            <td>
              <code>{claim.id}</code>
            </td>
            <td>{number(claim.value)}</td>
            <td>
              {number(claim.low)} to {number(claim.high)}
            </td>
            <td>{claim.bar}</td>
            <td class={claim.holds ? "good" : "bad"}>{claim.holds ? "✓ holds" : "✗ fails"}</td>
          </tr>
        ))}
      </Table>
    </>
  );
}

function Arms({ run }: { run: RunView }) {
  const { value: lines, error } = useAnswer<RunLine[]>("runs", {}, () => (run.status === "running" ? RUNNING_S : RESTING_S));
  const begun = (lines ?? []).filter((line) => run.arms.includes(line.summary.name));
  const names = begun.map((line) => line.summary.name);
  const waiting = run.arms.filter((arm) => !names.includes(arm));
  return (
    <>
      <Trouble error={error} />
      <RunRows lines={begun} />
      {lines && waiting.length > 0 && <p class="small">Not begun: {waiting.map((arm) => arm.slice(run.name.length + 1)).join(", ")}</p>}
      {names.length > 1 && (
        <p>
          <a href={link("compare", "", { run: names })}>compare the {names.length} arms</a>
        </p>
      )}
      <Claims run={run} />
    </>
  );
}
