// Which model answers, how hard it thinks, and for how long at most.

import type { Settings } from "./conversation";
import type { Model } from "./server";

interface DialProps {
  models: Model[];
  model: Model;
  settings: Settings;
  onChange: (settings: Settings) => void;
}

export function Dial({ models, model, settings, onChange }: DialProps) {
  const efforts = Object.keys(model.efforts);
  const at = settings.effort === null ? -1 : efforts.indexOf(settings.effort);
  const allowed = efforts[at] === undefined ? "" : allowance(model.efforts[efforts[at]] ?? null, model);
  return (
    <div class="dial">
      <ModelPicker models={models} model={model} onPick={(id) => onChange({ ...settings, model: id })} />
      {model.thinks ? (
        <>
          <label>
            effort
            <input type="range" min={0} max={efforts.length - 1} value={at} aria-valuetext={`${settings.effort}, ${allowed}`}
              onInput={(e) => onChange({ ...settings, effort: efforts[e.currentTarget.valueAsNumber]! })} />
            <span class="allowed">
              <b>{settings.effort}</b> {allowed}
            </span>
          </label>
          <label>
            limit
            <input type="number" min={0} max={model.max_thought ?? model.context} placeholder="none" aria-label="limit of thought in tokens"
              value={settings.limit ?? ""}
              onInput={(e) => onChange({ ...settings, limit: e.currentTarget.value === "" ? null : e.currentTarget.valueAsNumber })} />
            tokens
          </label>
        </>
      ) : (
        <span>answers at once: it has no thought section</span>
      )}
    </div>
  );
}

interface ModelPickerProps {
  models: Model[];
  model: Model;
  disabled?: boolean;
  onPick: (id: string) => void;
}

export function ModelPicker({ models, model, disabled = false, onPick }: ModelPickerProps) {
  return (
    <select aria-label="model" value={model.id} disabled={disabled} onInput={(e) => onPick(e.currentTarget.value)}>
      {models.map(({ id }) => (
        <option key={id} value={id}>
          {id}
        </option>
      ))}
    </select>
  );
}

/** An effort without a limit of its own has the server's, if that is within the context. */
function allowance(tokens: number | null, { max_thought, context }: Model): string {
  const most = max_thought ?? Infinity;
  const least = tokens === null && most > context ? Infinity : Math.min(tokens ?? Infinity, most);
  return Number.isFinite(least) ? `${least.toLocaleString("en")} tokens` : "as long as it fits";
}
