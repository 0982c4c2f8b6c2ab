// What the server tells (steep/server/library.py), and how it is asked.

import { useEffect, useState } from "preact/hooks";

export type Status = "running" | "finished" | "stopped" | "failed" | "interrupted" | "unreadable";

export interface RunLine {
  summary: {
    name: string;
    status: Status;
    stage: string | null;
    step: number | null;
    elapsed_s: number;
    created: string;
  };
  metric: string | null;
  spark: number[];
  report: boolean;
}

export interface EvaluationLine {
  name: string;
  command: string;
  report: boolean;
}

export interface ChartOf {
  title: string;
  unit: string;
  lines: { metric: string; label: string }[];
  main: boolean;
}

export interface HealthEvent {
  step: number;
  rule: string;
  reaction: string;
  message: string;
}

export interface BudgetCurve {
  model: string;
  task: string;
  mode: string;
  budgets: number[];
  values: number[];
  lows: number[];
  highs: number[];
}

export interface StageView {
  name: string;
  finished: boolean;
  step: number | null;
  elapsed_s: number;
  rollouts: number;
  version: string;
  charts: ChartOf[];
  events: HealthEvent[];
  budgets: BudgetCurve[];
}

export interface RunView {
  name: string;
  status: Status;
  info: {
    recipe: string;
    overrides: string[];
    seed: number | null;
    versions: Record<string, string>;
    git: { commit: string; dirty: boolean } | null;
    machine: { cpu: string; cores: number; gpus: string[]; host: string };
    created: string;
    error: string | null;
    resumed: unknown[];
  };
  stages: StageView[];
  arms: string[];
  claims: { id: string; value: number; low: number; high: number; bar: string; holds: boolean }[];
  report: boolean;
  evaluations: EvaluationLine[];
}

export interface Thinned {
  steps: number[];
  low: number[];
  high: number[];
  smooth: number[];
}

export interface Setting {
  key: string;
  value: unknown;
  given: boolean;
  chosen: boolean | null;
}

export interface Comparison {
  names: string[];
  config: { key: string; values: unknown[] }[];
}

export type Piece = [text: string, marks: string];

export interface Rollout {
  step: number;
  row: number;
  task: string;
  level: number;
  prompt: string;
  verdict: string;
  reason: string;
  budget: number | null;
  thought_tokens: number;
  interrupted: boolean;
  model?: string;
  mode?: string;
  thought: Piece[];
  answer: Piece[];
}

export interface RolloutPage {
  total: number;
  matching: number;
  tasks: string[];
  verdicts: string[];
  steps: [number, number] | null;
  longest: number;
  rows: Rollout[];
}

export type Params = Record<string, string | number | string[] | null | undefined>;

export function query(params: Params): string {
  const words = new URLSearchParams();
  for (const [key, value] of Object.entries(params)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one != null && one !== "") words.append(key, `${one}`);
  }
  return words.toString();
}

/** Asks the server; an error carries its words. */
export async function ask<T>(what: string, params: Params, signal: AbortSignal): Promise<T> {
  const response = await fetch(`./api/${what}?${query(params)}`, { signal });
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ? [body.error, body.fix].filter(Boolean).join(": ") : response.statusText);
  return body as T;
}

export interface Answer<T> {
  value: T | null;
  error: string | null;
}

/** The answer to a question, asked again when it changes and, while the page is looked at, after `every_s(answer)`. */
export function useAnswer<T>(what: string, params: Params, every_s?: (answer: T) => number): Answer<T> {
  const [answer, setAnswer] = useState<Answer<T>>({ value: null, error: null });
  const key = query(params);
  useEffect(() => {
    const abort = new AbortController();
    let timer = 0;
    async function again() {
      clearTimeout(timer);
      if (document.hidden) return;
      let wait_s = every_s ? 5 : 0; // after an error
      try {
        const value = await ask<T>(what, params, abort.signal);
        setAnswer((before) => (same(before.value, value) && !before.error ? before : { value, error: null }));
        wait_s = every_s?.(value) ?? 0;
      } catch (error) {
        if (abort.signal.aborted) return;
        setAnswer((before) => ({ ...before, error: reason(error) }));
      }
      if (wait_s) timer = setTimeout(again, 1000 * wait_s);
    }
    void again();
    document.addEventListener("visibilitychange", again);
    return () => {
      abort.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", again);
    };
  }, [what, key]);
  return answer;
}

function same(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

function reason(error: unknown): string {
  if (error instanceof TypeError) return "the server does not answer: is `steep runs serve` still running?";
  return error instanceof Error ? error.message : String(error);
}
