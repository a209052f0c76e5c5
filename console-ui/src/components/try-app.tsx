import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, type KeyboardEvent, useRef, useState } from "react";
import { api, events } from "../api";
import { Markdown } from "../markdown";
import { filled } from "../messages";
import { useChosen, useKept } from "../settings";
import { Empty, Field, Json, Status, Trouble, useWrong } from "./base";
import { type Form, Inputs, type RunEvent, ready } from "./inputs";
import { newTurn, type TryStep, type TryTurn, withEvent } from "./try-turns";
import { useUpload } from "./uploads";

type AppForm = Awaited<ReturnType<typeof api.appForm>>;

// Runs of an app, each with what came of it. In a chat they are one conversation.
const useTries = (id: string, isDraft: boolean) => {
  const errorText = useWrong();
  const client = useQueryClient();
  const [turns, setTurns] = useState<TryTurn[]>([]);
  const [isBusy, setBusy] = useState(false);
  const conversation = useRef("");
  const activeRun = useRef<AbortController | null>(null);
  const start = async (query: string, values: Record<string, unknown>, form: AppForm) => {
    const turnIndex = turns.length;
    const put = (change: (turn: TryTurn) => TryTurn) =>
      setTurns((all) => all.map((turn, index) => (index === turnIndex ? change(turn) : turn)));
    setTurns((all) => [...all, newTurn(query)]);
    setBusy(true);
    const controller = new AbortController();
    activeRun.current = controller;
    try {
      const body = JSON.stringify({
        inputs: ready(values, form.data as Form[]),
        draft: isDraft,
        ...(form.is_chat ? { query, conversation: conversation.current } : {}),
      });
      const path = `/admin/v1/apps/${encodeURIComponent(id)}/runs`;
      const init = { method: "POST", body, signal: controller.signal };
      for await (const event of events<RunEvent>(path, init)) put((turn) => withEvent(turn, event));
    } catch (error) {
      const trouble = (error as Error).name === "AbortError" ? "" : errorText(error);
      put((turn) => ({ ...turn, status: "stopped", trouble }));
    } finally {
      setBusy(false);
      void client.invalidateQueries({ queryKey: ["conversations", id] });
      void client.invalidateQueries({ queryKey: ["runs", id] });
    }
  };
  return { turns, isBusy, start, stop: () => activeRun.current?.abort() };
};

// Any app, tried: a form and what came of it, or a chat. Steps are shown as they happen.
export const TryApp = ({ id, isDraft }: { id: string; isDraft: boolean }) => {
  const { t } = useChosen();
  const form = useQuery({ queryKey: ["form", id, isDraft], queryFn: () => api.appForm(id, isDraft) });
  const tries = useTries(id, isDraft);
  if (!form.data) return <Trouble of={[form]} />;
  const isChat = form.data.is_chat;
  return (
    <>
      {isDraft && <p className="soft">{t.triesDraft}</p>}
      <div role="log" aria-label={t.answer} aria-live="polite" className="turns">
        {!tries.turns.length && isChat && <Empty title={t.sayHello} />}
        {tries.turns.map((turn, index) => (
          <Turn key={index} turn={turn} isChat={isChat} />
        ))}
      </div>
      <TryForm id={id} form={form.data} tries={tries} />
    </>
  );
};

const Turn = ({ turn, isChat }: { turn: TryTurn; isChat: boolean }) => (
  <div className="turns">
    {turn.query && (
      <div className="turn user">
        <p>{turn.query}</p>
      </div>
    )}
    <div className="turn assistant">
      {turn.steps.length > 0 && <Steps steps={turn.steps} status={turn.status} />}
      {turn.answer && <Markdown text={turn.answer} />}
      {!turn.answer && turn.outputs && !isChat && <Json value={turn.outputs} />}
      {turn.trouble && (
        <p className="wrong" role="alert">
          {turn.trouble}
        </p>
      )}
    </div>
  </div>
);

const Steps = ({ steps, status }: { steps: TryStep[]; status: string }) => {
  const { t, span } = useChosen();
  return (
    <details>
      <summary>
        {filled(t.steps, { count: steps.length })} <Status is={status} />
      </summary>
      <ul className="plain">
        {steps.map((step) => (
          <li key={step.id}>
            <Status is={step.status} /> {step.title}{" "}
            {step.status !== "running" && step.seconds > 0 && <span className="soft small">{span(step.seconds)}</span>}
            {step.data !== undefined && (
              <details>
                <summary className="small">{t.data}</summary>
                <Json value={step.data} />
              </details>
            )}
          </li>
        ))}
      </ul>
    </details>
  );
};

const TryForm = ({ id, form, tries }: { id: string; form: AppForm; tries: ReturnType<typeof useTries> }) => {
  const { t } = useChosen();
  const [values, setValues] = useKept<Record<string, unknown>>(`try.${id}`, {});
  const [query, setQuery] = useState("");
  const upload = useUpload(id);
  const { isBusy } = tries;
  const startLabel = form.is_chat ? t.send : t.run;
  const submit = () => {
    if (isBusy) return tries.stop();
    setQuery("");
    void tries.start(query, values, form);
  };
  const onSubmit = (event: FormEvent) => {
    event.preventDefault();
    submit();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    if (query.trim()) submit();
  };
  return (
    <form className="form" onSubmit={onSubmit}>
      <Inputs upload={upload} form={form.data as Form[]} values={values} onChange={setValues} />
      {form.is_chat && (
        <Field label={t.message}>
          <textarea
            rows={2}
            required={!isBusy}
            value={query}
            onChange={(event) => setQuery(event.target.value)}
            onKeyDown={onKeyDown}
          />
        </Field>
      )}
      <button type="submit" className="primary">
        {isBusy ? t.stop : startLabel}
      </button>
    </form>
  );
};
