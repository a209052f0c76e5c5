import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useRef, useState } from "react";
import { api, events } from "../api";
import { Markdown } from "../markdown";
import { filled } from "../messages";
import { useChosen, useKept } from "../settings";
import { Empty, Field, Json, Status, Trouble, useWrong } from "./base";
import { type Form, Inputs, type RunEvent, ready } from "./inputs";
import { useUpload } from "./uploads";

interface Step {
  id: string;
  title: string;
  status: string;
  seconds: number;
  data?: unknown;
}
interface Turn {
  query: string;
  answer: string;
  steps: Step[];
  trouble: string;
  status: string;
  outputs?: Record<string, unknown>;
}

// Any app, tried: a form and what came of it, or a talk. Steps are shown as they are made.
export const TryApp = ({ id, isDraft }: { id: string; isDraft: boolean }) => {
  const { t, span } = useChosen();
  const said = useWrong();
  const client = useQueryClient();
  const form = useQuery({ queryKey: ["form", id, isDraft], queryFn: () => api.appForm(id, isDraft) });
  const [values, setValues] = useKept<Record<string, unknown>>(`try.${id}`, {});
  const upload = useUpload(id);
  const [query, setQuery] = useState("");
  const [turns, setTurns] = useState<Turn[]>([]);
  const [isBusy, setBusy] = useState(false);
  const conversation = useRef("");
  const running = useRef<AbortController | null>(null);
  const go = async () => {
    if (isBusy) return running.current?.abort();
    const at = turns.length;
    const put = (more: (one: Turn) => Partial<Turn>) =>
      setTurns((all) => all.map((one, place) => (place === at ? { ...one, ...more(one) } : one)));
    setTurns((all) => [...all, { query, answer: "", steps: [], trouble: "", status: "running" }]);
    setQuery("");
    setBusy(true);
    running.current = new AbortController();
    try {
      const body = {
        inputs: ready(values, form.data!.data as Form[]),
        draft: isDraft,
        ...(form.data!.is_chat ? { query, conversation: conversation.current } : {}),
      };
      for await (const event of events<RunEvent>(`/admin/v1/apps/${encodeURIComponent(id)}/runs`, {
        method: "POST",
        body: JSON.stringify(body),
        signal: running.current.signal,
      })) {
        if (event.event === "node_chunk") put((one) => ({ answer: one.answer + (event.chunk ?? "") }));
        if (event.event === "agent_log")
          put((one) => ({
            steps: [
              ...one.steps.filter((step) => step.id !== event.message_id),
              {
                id: event.message_id ?? "",
                title: event.label ?? "",
                status: event.status || "running",
                seconds: 0,
                data: event.data,
              },
            ],
          }));
        if (event.event === "node_started")
          put((one) => ({
            steps: [
              ...one.steps,
              {
                id: event.id ?? "",
                title: event.title || event.node_id || "",
                status: "running",
                seconds: event.at ?? 0,
              },
            ],
          }));
        if (event.event === "node_succeeded" || event.event === "node_failed" || event.event === "node_exception") {
          put((one) => ({
            steps: one.steps.map((step) =>
              step.id === event.id
                ? {
                    ...step,
                    status: event.event === "node_succeeded" ? "succeeded" : "failed",
                    seconds: Math.max(0, (event.at ?? 0) - step.seconds),
                    data: event.error ?? event.outputs,
                  }
                : step,
            ),
          }));
        }
        if (event.event === "end" && event.run)
          put(() => ({ status: event.run!.status, outputs: event.run!.outputs, trouble: event.run!.error }));
        if (event.event === "error") put(() => ({ trouble: event.message ?? "", status: "failed" }));
      }
    } catch (error) {
      put(() => ({ status: "stopped", trouble: (error as Error).name === "AbortError" ? "" : said(error) }));
    } finally {
      setBusy(false);
      void client.invalidateQueries({ queryKey: ["conversations", id] });
      void client.invalidateQueries({ queryKey: ["runs", id] });
    }
  };
  if (!form.data) return <Trouble of={[form]} />;
  return (
    <>
      {isDraft && <p className="soft">{t.triesDraft}</p>}
      <div role="log" aria-label={t.answer} aria-live="polite" className="turns">
        {!turns.length && form.data.is_chat && <Empty title={t.sayHello} />}
        {turns.map((one, at) => (
          <div key={at} className="turns">
            {one.query && (
              <div className="turn user">
                <p>{one.query}</p>
              </div>
            )}
            <div className="turn assistant">
              {one.steps.length > 0 && (
                <details>
                  <summary>
                    {filled(t.steps, { count: one.steps.length })} <Status is={one.status} />
                  </summary>
                  <ul className="plain">
                    {one.steps.map((step) => (
                      <li key={step.id}>
                        <Status is={step.status} /> {step.title}{" "}
                        {step.status !== "running" && step.seconds > 0 && (
                          <span className="soft small">{span(step.seconds)}</span>
                        )}
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
              )}
              {one.answer ? (
                <Markdown text={one.answer} />
              ) : (
                one.outputs && !form.data!.is_chat && <Json value={one.outputs} />
              )}
              {one.trouble && (
                <p className="wrong" role="alert">
                  {one.trouble}
                </p>
              )}
            </div>
          </div>
        ))}
      </div>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void go();
        }}
      >
        <Inputs upload={upload} form={form.data.data as Form[]} values={values} onChange={setValues} />
        {form.data.is_chat && (
          <Field label={t.message}>
            <textarea
              rows={2}
              required={!isBusy}
              value={query}
              onChange={(event) => setQuery(event.target.value)}
              onKeyDown={(event) => {
                if (event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing) {
                  event.preventDefault();
                  if (query.trim()) void go();
                }
              }}
            />
          </Field>
        )}
        <button type="submit" className="primary">
          {isBusy ? t.stop : form.data.is_chat ? t.send : t.run}
        </button>
      </form>
    </>
  );
};
