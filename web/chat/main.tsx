// The chat page.

import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { useKeys } from "../src/keys";
import { KeysHelp, Trouble } from "../src/parts";
import { date } from "../src/words";
import "../src/style.css";
import "./chat.css";
import { forget, useBook, useSettings, type Book } from "./book";
import { Compare } from "./compare";
import { title } from "./conversation";
import { hasKey, KeyNeeded, listModels, reason, setKey, type Model } from "./server";
import { Talk } from "./talk";

const KEYS = [
  ["Enter", "ask; with Shift, begin a new line"],
  ["Escape", "stop the answer, and leave the field"],
  ["a", "answer now"],
  ["r", "make the last answer again"],
  ["e", "edit the last question"],
  ["o", "fold or unfold the last thought"],
  ["j  k", "next, previous turn"],
  ["/", "to the question"],
  ["n", "a new conversation"],
  ["c", "compare four budgets"],
  ["?", "this help"],
];

function App() {
  const place = usePlace();
  const book = useBook();
  const [settings, setSettings] = useSettings();
  const [models, setModels] = useState<Model[] | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  const [locked, setLocked] = useState(false);
  const [announced, setAnnounced] = useState("");
  const help = useRef<HTMLDialogElement>(null);
  const list = useRef<HTMLDialogElement>(null);
  const talk = book.conversations.find(({ id }) => place === `talk/${id}`) ?? null;

  async function load() {
    try {
      setModels(await listModels());
      setLocked(false);
      setTrouble(null);
    } catch (error) {
      setLocked(error instanceof KeyNeeded);
      setTrouble(error instanceof KeyNeeded && !hasKey() ? null : reason(error));
    }
  }
  useEffect(() => void load(), []);
  useEffect(() => list.current?.close(), [place]);
  useEffect(() => {
    document.title = [talk && title(talk), "steep chat"].filter(Boolean).join(" · ");
  }, [talk]);
  useKeys({
    "?": () => help.current?.showModal(),
    "/": () => document.querySelector<HTMLElement>("form.question textarea")?.focus(),
    n: () => (location.hash = "#/"),
    c: () => (location.hash = "#/compare"),
  });

  const shared = { settings, onSettings: setSettings, onAnnounce: setAnnounced };
  return (
    <div class="app">
      <nav class="top">
        <a href="#/">steep</a>
        <a href="#/">new</a>
        <a href="#/compare">compare</a>
        <button type="button" class="list" onClick={() => list.current?.showModal()}>
          conversations
        </button>
        <button type="button" aria-label="keys" onClick={() => help.current?.showModal()}>
          ?
        </button>
      </nav>
      <aside aria-label="conversations">
        <List book={book} current={talk?.id} />
      </aside>
      {!models && (
        <main>
          {locked ? <Unlock onKey={(key) => (setKey(key), load())} wrong={trouble} /> : <Trouble error={trouble} />}
        </main>
      )}
      {models && place === "compare" && <Compare models={models} {...shared} />}
      {models && place !== "compare" && <Talk key={talk?.id} talk={talk} book={book} models={models} {...shared} />}
      <p role="status" class="unseen">
        {announced}
      </p>
      <dialog ref={list} aria-label="conversations">
        <List book={book} current={talk?.id} />
        <button type="button" onClick={() => list.current?.close()}>
          close
        </button>
      </dialog>
      <KeysHelp dialog={help} keys={KEYS} />
    </div>
  );
}

function List({ book, current }: { book: Book; current: string | undefined }) {
  if (!book.conversations.length) return <p class="small">Conversations are kept in this browser alone.</p>;
  return (
    <>
      {book.full && <p class="missing">The browser has no room for more: export what you want to keep, and delete some.</p>}
      <ul class="talks">
        {book.conversations.map((talk) => (
          <li key={talk.id}>
            <a href={`#/talk/${talk.id}`} aria-current={talk.id === current && "page"} title={date(new Date(talk.changed).toISOString())}>
              {title(talk)}
            </a>
            <button type="button" aria-label={`delete ${title(talk)}`} onClick={() => remove(talk.id, title(talk))}>
              ×
            </button>
          </li>
        ))}
      </ul>
    </>
  );
}

function remove(id: string, name: string) {
  if (confirm(`Delete "${name}"?`)) forget(id);
}

/** Asks for the key that the server wants. */
function Unlock({ onKey, wrong }: { onKey: (key: string) => void; wrong: string | null }) {
  const [key, setNewKey] = useState("");
  return (
    <form
      class="unlock"
      onSubmit={(event) => {
        event.preventDefault();
        onKey(key);
      }}
    >
      <h1>This server asks for a key</h1>
      <Trouble error={wrong} />
      <label>
        API key
        <input type="password" autocomplete="off" value={key} onInput={(event) => setNewKey(event.currentTarget.value)} />
      </label>
      <button type="submit" disabled={!key}>
        Unlock
      </button>
      <p class="small">It is kept until this tab is closed, and sent to this server alone.</p>
    </form>
  );
}

function usePlace(): string {
  const read = () => location.hash.replace(/^#\/?/, "");
  const [place, setPlace] = useState(read);
  useEffect(() => {
    const moved = () => setPlace(read());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return place;
}

render(<App />, document.getElementById("page")!);
