// A field to write a question in. Enter asks, Shift and Enter begin a new line.

import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

interface QuestionProps {
  text?: string;
  label?: string;
  /** Whether an answer is under way: then nothing is asked. */
  busy: boolean;
  onAsk: (text: string) => void;
  /** Escape. */
  onStop: () => void;
  children: ComponentChildren;
}

export function Question({ text: before = "", label = "question", busy, onAsk, onStop, children }: QuestionProps) {
  const [text, setText] = useState(before);
  const field = useRef<HTMLTextAreaElement>(null);
  const ready = !busy && text.trim() !== "";

  useLayoutEffect(() => field.current!.focus(), []);

  function ask() {
    if (!ready) return;
    onAsk(text.trim());
    setText("");
  }
  function pressed(event: KeyboardEvent) {
    if (event.isComposing) return;
    if (event.key === "Escape") {
      field.current!.blur(); // the keys of the page act again
      onStop();
    }
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    ask();
  }

  return (
    <form
      class="question"
      onSubmit={(event) => {
        event.preventDefault();
        ask();
      }}
    >
      <textarea ref={field} rows={1} aria-label={label} placeholder="Ask" value={text}
        onInput={(event) => setText(event.currentTarget.value)} onKeyDown={pressed} />
      {children}
      <button type="submit" disabled={!ready} hidden={busy}>
        Send
      </button>
    </form>
  );
}
