// Small things that several pages show.

import type { ComponentChildren, RefObject } from "preact";
import type { EvaluationLine, Status } from "./api";
import { reportOn } from "./route";

export function StatusWord({ status }: { status: Status }) {
  return <span class={`status ${status}`}>{status}</span>;
}

export function Trouble({ error }: { error: string | null }) {
  return error ? <div class="missing" role="alert">{error}</div> : null;
}

/** Stands where an answer is on its way; it does not show unless that takes a while. */
export function Reading() {
  return <p class="small reading">reading…</p>;
}

export function Table({ heads, children, label }: { heads: string[]; children: ComponentChildren; label?: string }) {
  return (
    <div class="scroll">
      <table aria-label={label}>
        <thead>
          <tr>
            {heads.map((head) => (
              <th key={head} scope="col">
                {head}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

export function Spark({ values, label }: { values: number[]; label: string }) {
  if (values.length < 2) return null;
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const points = values.map((v, i) => `${(i * 100) / (values.length - 1)},${22 - (20 * (v - low)) / span}`).join(" ");
  return (
    <svg class="spark" viewBox="0 0 100 24" preserveAspectRatio="none" role="img" aria-label={label}>
      <polyline points={points} />
    </svg>
  );
}

/** What `steep eval` has kept, each with its report or the command that writes one. */
export function Evaluations({ lines }: { lines: EvaluationLine[] }) {
  if (!lines.length) return null;
  return (
    <>
      <h2>Evaluations</h2>
      <Table heads={["evaluation", "report", "made by"]} label="evaluations">
        {lines.map(({ name, command, report }) => (
          <tr key={name}>
            <td>{name}</td>
            <td>{report ? <a href={reportOn(name)} aria-label={`report on ${name}`}>report</a> : "none yet"}</td>
            <td class="wrap">
              <code>{command}</code>
            </td>
          </tr>
        ))}
      </Table>
    </>
  );
}

/** What the keys of a page do: pairs of a key and its action. */
export function KeysHelp({ dialog, keys }: { dialog: RefObject<HTMLDialogElement | null>; keys: string[][] }) {
  return (
    <dialog ref={dialog} aria-label="keys">
      <dl class="keys">
        {keys.map(([key, does]) => (
          <div key={key}>
            <dt>{key}</dt>
            <dd>{does}</dd>
          </div>
        ))}
      </dl>
      <button type="button" onClick={() => dialog.current?.close()}>
        close
      </button>
    </dialog>
  );
}
