// The resolved config of a run.

import { useState } from "preact/hooks";
import { useAnswer, type RunView, type Setting } from "./api";
import { Trouble } from "./parts";

export function Config({ run }: { run: RunView }) {
  const { value: settings, error } = useAnswer<Setting[]>("config", { run: run.name });
  const [words, setWords] = useState("");
  const [changed, setChanged] = useState(false);
  const known = settings?.some((setting) => setting.chosen != null);
  const found = (settings ?? []).filter(
    ({ key, given, chosen }) => key && key.includes(words.toLowerCase()) && (!changed || given || chosen),
  );
  return (
    <>
      <Trouble error={error} />
      <div class="bar">
        <input type="search" placeholder="field" aria-label="filter fields" value={words} onInput={(e) => setWords(e.currentTarget.value)} />
        <label>
          <input type="checkbox" checked={changed} onChange={(e) => setChanged(e.currentTarget.checked)} />{" "}
          {known ? "only what is not the default" : "only what the command line named"}
        </label>
      </div>
      <p class="small">
        {known && "In bold: what the recipe or the command line set to another value than the field’s default. "}
        <mark>Marked</mark>: what the command line named.
        {settings && !known && " This run does not say which values are defaults: an older version of steep began it."}
      </p>
      <dl class="config">
        {found.map(({ key, value, given, chosen }) => (
          <div key={key} class={chosen ? "chosen" : ""}>
            <dt>{given ? <mark>{key}</mark> : key}</dt>
            <dd>{typeof value === "string" ? value : JSON.stringify(value)}</dd>
          </div>
        ))}
      </dl>
      {settings && !found.length && <p>No field fits.</p>}
    </>
  );
}
