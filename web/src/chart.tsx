// One plot: curves with a faint band around each, events as vertical lines, the values under the cursor in its legend.

import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import type { HealthEvent, Thinned } from "./api";
import { number } from "./words";

const HEIGHT = 190;
const COLOURS = 6;
const DASHES = [[], [6, 3], [2, 2], [6, 2, 1, 2]];
const FEW = 30; // values that are drawn as points
const NEAR = 6; // pixels from an event at which its message is told

export interface Curve {
  label: string;
  colour: number;
  dash: number;
  data: Thinned;
}

export type Range = [first: number, last: number] | null;

interface Props {
  title: string;
  unit: string;
  curves: Curve[];
  events?: HealthEvent[];
  /** Names of the places on the x axis, where these are no steps. */
  places?: string[];
  range?: Range;
  onRange?: (range: Range) => void;
}

export function Chart({ title, unit, curves, events = [], places, range = null, onRange }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const told = useRef<HTMLElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef({ curves, events, range, onRange });
  latest.current = { curves, events, range, onRange };
  const dark = useDark();
  const shape = JSON.stringify([curves.map((c) => [c.label, c.colour, c.dash]), places]);

  function tell(u: uPlot) {
    const { curves, events } = latest.current;
    const at = u.cursor.idx ?? null;
    const left = u.cursor.left ?? -1;
    curves.forEach((_, i) => {
      const value = told.current?.querySelectorAll("b")[i];
      if (value) value.textContent = shown(valueAt(u.data[3 * i + 3], at));
    });
    const x = at == null || left < 0 ? null : u.data[0][at];
    const near = events.find((e) => left >= 0 && Math.abs(u.valToPos(e.step, "x") - left) < NEAR);
    const where = told.current?.querySelector("span.where");
    if (where) {
      where.textContent = near
        ? `${near.step}: ${near.rule}, ${near.message}`
        : x == null ? unit : places ? `${places[x]}` : `step ${x}`;
    }
  }

  useEffect(() => {
    const element = box.current!;
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    const font = `11px ${colour("--sans")}`;
    const axis: uPlot.Axis = {
      stroke: colour("--muted"),
      font,
      grid: { stroke: colour("--grid"), width: 1 },
      ticks: { show: false },
    };
    const series: uPlot.Series[] = [{}];
    const bands: uPlot.Band[] = [];
    curves.forEach(({ colour: at, dash }, i) => {
      const stroke = colour(`--c${at % COLOURS}`);
      const faint = { stroke: `${stroke}66`, width: 0.7, points: { show: false } };
      bands.push({ series: [series.length + 1, series.length], fill: `${stroke}22` });
      series.push(faint, faint, {
        stroke,
        width: 1.7,
        dash: DASHES[dash % DASHES.length]!,
        points: { show: () => (latest.current.curves[i]?.data.steps.length ?? 0) <= FEW, size: 5, fill: stroke },
      });
    });
    const u = new uPlot(
      {
        width: element.clientWidth,
        height: HEIGHT,
        series,
        bands,
        legend: { show: false },
        scales: { x: { time: false }, y: { range: (_, low, high) => padded(low, high) } },
        axes: [
          {
            ...axis,
            size: 26,
            ...(places && { splits: () => places.map((_, i) => i), values: () => places }),
            ...(!places && { incrs: [1, 2, 5].flatMap((d) => [0, 1, 2, 3, 4, 5, 6].map((e) => d * 10 ** e)).sort((a, b) => a - b) }),
          },
          { ...axis, size: 52, values: (_, ticks) => ticks.map((v) => (Math.abs(v) >= 1e5 ? v.toExponential(0) : v.toLocaleString("en", { maximumSignificantDigits: 6 }))) },
        ],
        cursor: { sync: { key: places ? "places" : "steps" }, drag: { x: !places, y: false, setScale: false }, points: { size: 6 } },
        hooks: {
          setCursor: [tell],
          setSelect: [
            (u) => {
              const [from, to] = [u.select.left, u.select.left + u.select.width].map((p) => Math.round(u.posToVal(p, "x")));
              u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
              if (to! > from!) latest.current.onRange?.([from!, to!]);
            },
          ],
          draw: [(u) => drawEvents(u, latest.current.events, colour("--bad"))],
        },
      },
      aligned(latest.current.curves),
      element,
    );
    plot.current = u;
    tell(u);
    const observer = new ResizeObserver(() => u.setSize({ width: element.clientWidth, height: HEIGHT }));
    observer.observe(element);
    const back = () => latest.current.onRange?.(null);
    u.over.addEventListener("dblclick", back);
    return () => {
      observer.disconnect();
      u.destroy();
    };
  }, [shape, dark]);

  useEffect(() => {
    const u = plot.current!;
    u.setData(aligned(curves));
    tell(u);
  }, [curves, events]);

  function pressed(event: KeyboardEvent) {
    const u = plot.current!;
    const last = u.data[0].length - 1;
    const at = u.cursor.idx ?? last;
    const by = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: at - by, ArrowRight: at + by, Home: 0, End: last }[event.key];
    const x = u.data[0][at];
    if (to != null) {
      const place = u.data[0][Math.min(Math.max(to, 0), last)]!;
      u.setCursor({ left: u.valToPos(place, "x"), top: u.over.clientHeight / 2 });
    } else if ((event.key === "+" || event.key === "-") && x != null && onRange) {
      const half = Math.round((u.data[0][last]! - u.data[0][0]!) * (event.key === "+" ? 0.25 : 1));
      onRange([x - half, x + half]);
    } else if (event.key === "Escape" && range) onRange?.(null);
    else return;
    event.preventDefault();
  }

  const said = curves.map((c) => `${c.label} ${shown(valueAt(c.data.smooth, null))}`.trim()).join(", ");
  return (
    <figure>
      <figcaption ref={told}>
        <strong>{title}</strong> <span class="where">{unit}</span>
        <ul>
          {curves.map((curve) => (
            <li key={curve.label}>
              <Swatch colour={curve.colour} dash={curve.dash} />
              {curve.label && <span>{curve.label} </span>}
              <b />
            </li>
          ))}
        </ul>
      </figcaption>
      <div ref={box} class="plot" tabIndex={0} role="img" aria-label={`${title}: ${said}`} onKeyDown={pressed} />
    </figure>
  );
}

function Swatch({ colour, dash }: { colour: number; dash: number }) {
  return (
    <svg class={`swatch c${colour % COLOURS}`} viewBox="0 0 16 4" aria-hidden="true">
      <line x1="0" y1="2" x2="16" y2="2" stroke-dasharray={DASHES[dash % DASHES.length]!.map((d) => d * 0.8).join(" ")} />
    </svg>
  );
}

/** The curves over the steps of any of them. */
function aligned(curves: Curve[]): uPlot.AlignedData {
  return curves.length ? uPlot.join(curves.map(({ data: d }) => [d.steps, d.low, d.high, d.smooth])) : [[]];
}

function valueAt(values: ArrayLike<number | null | undefined> | undefined, at: number | null): number | null {
  for (let i = at ?? (values?.length ?? 0) - 1; values && i >= 0; i--) if (values[i] != null) return values[i]!;
  return null;
}

function shown(value: number | null): string {
  return value == null ? "" : number(value);
}

function padded(low: number | null, high: number | null): [number, number] {
  if (low == null || high == null) return [0, 1];
  const pad = 0.06 * (high - low) || Math.abs(high) * 0.05 || 0.5;
  return [low >= 0 && low - pad < 0 ? 0 : low - pad, high + pad];
}

function drawEvents(u: uPlot, events: HealthEvent[], colour: string) {
  const { left, top, width, height } = u.bbox;
  const taken = new Set<number>(); // many events within a pixel are one line
  u.ctx.save();
  u.ctx.strokeStyle = u.ctx.fillStyle = colour;
  u.ctx.lineWidth = devicePixelRatio;
  u.ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
  for (const event of events) {
    const x = Math.round(u.valToPos(event.step, "x", true));
    if (x < left || x > left + width || taken.has(x)) continue;
    taken.add(x);
    u.ctx.beginPath();
    u.ctx.moveTo(x, top);
    u.ctx.lineTo(x, top + height);
    u.ctx.stroke();
    u.ctx.beginPath();
    u.ctx.moveTo(x - 4 * devicePixelRatio, top);
    u.ctx.lineTo(x + 4 * devicePixelRatio, top);
    u.ctx.lineTo(x, top + 6 * devicePixelRatio);
    u.ctx.fill();
  }
  u.ctx.restore();
}

function useDark(): boolean {
  const [scheme] = useState(() => matchMedia("(prefers-color-scheme: dark)"));
  const [dark, setDark] = useState(scheme.matches);
  useEffect(() => {
    const changed = () => setDark(scheme.matches);
    scheme.addEventListener("change", changed);
    return () => scheme.removeEventListener("change", changed);
  }, [scheme]);
  return dark;
}
