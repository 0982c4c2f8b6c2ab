// The page of runs.

import { render } from "preact";
import { useEffect, useRef } from "preact/hooks";
import "uplot/dist/uPlot.min.css";
import "./style.css";
import { Compare } from "./compare";
import { useKeys } from "./keys";
import { List } from "./list";
import { KeysHelp } from "./parts";
import { link, useRoute } from "./route";
import { RunPage } from "./run";

const KEYS = [
  ["j  k", "next, previous run or rollout"],
  ["Enter", "open the run"],
  ["x  c", "choose a run, compare the chosen"],
  ["/", "to the filter"],
  ["1  2  3", "curves, rollouts, config"],
  ["r", "the report on the run"],
  ["o", "fold or unfold a thought"],
  ["n  p", "older, newer rollouts"],
  ["← →  + −", "in a plot: move along, look closer or from further off; Escape shows all"],
  ["g", "the list of runs"],
  ["?", "this help"],
];

function App() {
  const route = useRoute();
  const help = useRef<HTMLDialogElement>(null);
  useKeys({ "?": () => help.current?.showModal(), g: () => (location.hash = link("list")) });
  useEffect(() => {
    document.title = [route.run, "steep runs"].filter(Boolean).join(" · ");
  }, [route.run]);
  return (
    <>
      <nav class="top">
        <a href={link("list")}>steep</a>
        <button type="button" aria-label="keys" onClick={() => help.current?.showModal()}>
          ?
        </button>
      </nav>
      {route.page === "list" && <List />}
      {route.page === "run" && <RunPage key={route.run} route={route} />}
      {route.page === "compare" && <Compare route={route} />}
      <KeysHelp dialog={help} keys={KEYS} />
    </>
  );
}

render(<App />, document.getElementById("page")!);
