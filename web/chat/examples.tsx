// Questions to begin with. The page knows what is right.

import { EXAMPLES } from "./check";

export function Examples({ onAsk }: { onAsk: (text: string) => void }) {
  return (
    <ul class="examples">
      {EXAMPLES.map((text) => (
        <li key={text}>
          <button type="button" onClick={() => onAsk(text)}>
            {text}
          </button>
        </li>
      ))}
    </ul>
  );
}
