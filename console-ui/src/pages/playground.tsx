import { useQuery } from "@tanstack/react-query";
import { type FormEvent, type KeyboardEvent, useRef, useState } from "react";
import { api, chat, type Said } from "../api";
import { Markdown } from "../markdown";
import { Copied, Trouble } from "../parts";
import { useChosen } from "../settings";
import { filled } from "../words";

interface Turn extends Said { thought?: string; took?: string; trouble?: string }

const KEPT = "modelyard.playground";
const kept = (): { model: string; draft: string } => {
  try {
    return { model: "default", draft: "", ...(JSON.parse(sessionStorage.getItem(KEPT) ?? "{}") as object) };
  } catch {
    return { model: "default", draft: "" };
  }
};

export const Playground = () => {
  const { words } = useChosen();
  const models = useQuery({ queryKey: ["models"], queryFn: api.models });
  const [{ model, draft }, set] = useState(kept);
  const [turns, setTurns] = useState<Turn[]>([]);
  const running = useRef<AbortController | null>(null);
  const [isBusy, setBusy] = useState(false);
  const change = (more: Partial<{ model: string; draft: string }>) => {
    const next = { model, draft, ...more };
    set(next);
    sessionStorage.setItem(KEPT, JSON.stringify(next));
  };
  const told = (at: number, more: (one: Turn) => Partial<Turn>) =>
    setTurns((all) => all.map((one, place) => (place === at ? { ...one, ...more(one) } : one)));

  const send = async (event?: FormEvent) => {
    event?.preventDefault();
    if (isBusy) return running.current?.abort();
    if (!draft.trim()) return;
    const asked: Turn[] = [...turns, { role: "user", content: draft.trim() }];
    const at = asked.length;
    setTurns([...asked, { role: "assistant", content: "" }]);
    change({ draft: "" });
    const controller = (running.current = new AbortController());
    setBusy(true);
    const began = performance.now();
    let first = 0;
    let tokens = 0;
    try {
      for await (const piece of chat(model, asked.map(({ role, content }) => ({ role, content })), controller.signal)) {
        if (!first && (piece.text ?? piece.thought)) first = performance.now() - began;
        tokens = piece.usage?.total_tokens ?? tokens;
        told(at, (one) => ({ content: one.content + (piece.text ?? ""), ...(piece.thought ? { thought: (one.thought ?? "") + piece.thought } : {}) }));
      }
    } catch (error) {
      if ((error as Error).name !== "AbortError") told(at, () => ({ trouble: (error as Error).message || words.lost }));
    } finally {
      const seconds = (one: number) => (one / 1000).toFixed(2);
      told(at, () => ({ took: filled(words.took, { first: seconds(first), all: seconds(performance.now() - began), tokens }) }));
      setBusy(false);
    }
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing) void send(event as unknown as FormEvent);
  };
  const messages = turns.filter((one) => one.content).map(({ role, content }) => ({ role, content }));
  const curl = `curl ${location.origin}/v1/chat/completions -H 'content-type: application/json' \\\n  -d '${JSON.stringify({ model, messages }).replaceAll("'", "'\\''")}'`;
  return (
    <>
      <h1>{words.playground}</h1>
      <Trouble of={[models]} />
      <div className="row">
        <label>{words.model}
          <select value={model} onChange={(event) => change({ model: event.target.value })}>
            <option value="default">default</option>
            {(models.data ?? []).filter((one) => one.model_type === "llm").map((one) => <option key={one.id} value={one.id}>{one.id}</option>)}
          </select>
        </label>
        <button type="button" onClick={() => setTurns([])} disabled={!turns.length || isBusy}>{words.clear}</button>
      </div>
      <div role="log" aria-live="polite" aria-label={words.answer} className="turns">
        {!turns.length && <p className="soft">{words.empty}</p>}
        {turns.map((one, at) => (
          <article key={at} className={`turn ${one.role}`} aria-label={one.role === "user" ? words.you : words.answer}>
            {one.thought && <details><summary>{words.thinking}</summary><div>{one.thought}</div></details>}
            {one.role === "user" ? <p>{one.content}</p> : <Markdown text={one.content} />}
            {one.trouble && <p className="wrong" role="alert">{words.wrong}: {one.trouble}</p>}
            {one.took && <p className="soft small">{one.took}</p>}
          </article>
        ))}
      </div>
      <form className="composer" onSubmit={send}>
        <label className="hidden" htmlFor="ask">{words.message}</label>
        <textarea id="ask" rows={2} value={draft} placeholder={words.ask} onChange={(event) => change({ draft: event.target.value })} onKeyDown={onKey} />
        <button className="primary" type="submit">{isBusy ? words.stop : words.send}</button>
      </form>
      {messages.length > 0 && (
        <details className="card"><summary>{words.asCurl}</summary><pre tabIndex={0}>{curl}</pre><Copied text={curl} /></details>
      )}
    </>
  );
};
