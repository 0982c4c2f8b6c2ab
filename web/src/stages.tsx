// The choice among the stages of a run.

import type { RunView, StageView } from "./api";
import { reword, type Route } from "./route";

/** The stage that is asked for; otherwise the last that there is anything to see of, the evaluation after all others. */
export function stageOf(run: RunView, wanted: string | null, has: (stage: StageView) => boolean): StageView | undefined {
  const found = run.stages.filter(has);
  return found.find((stage) => stage.name === wanted) ?? found.findLast((stage) => stage.name !== "eval") ?? found[0];
}

export function StageButtons({ stages, stage, route }: { stages: StageView[]; stage: StageView; route: Route }) {
  return (
    <div class="bar" role="group" aria-label="stage">
      {stages.map((one) => (
        <button key={one.name} type="button" aria-pressed={one === stage} onClick={() => reword(route, { stage: one.name })}>
          {one.name}
          {one.step != null && <small> {one.step + 1} steps</small>}
        </button>
      ))}
    </div>
  );
}
