// Runs the draft and shows what happens, event by event; and shows past runs again.
import { type UseQueryResult, useQuery } from "@tanstack/react-query";
import { type FormEvent, type ReactNode, useEffect, useState } from "react";
import { api, type Shape } from "../api";
import { useDo } from "../components/actions";
import { Field, Json, Pick, Status, Trouble, useWrong } from "../components/base";
import { Dialog } from "../components/dialog";
import { type Form, Inputs, type RunEvent, ready } from "../components/inputs";
import { useUpload } from "../components/uploads";
import { useChosen, useKept } from "../settings";
import { type FlowNode, ROOTS } from "./file";
import { endStatus, streamedText } from "./run-progress";
import type { NodeProgress } from "./step";
import { type RunTrace, useRunTrace } from "./use-run-trace";

interface RunPanelOptions {
  id: string;
  isChat: boolean;
  isDirty: boolean;
  // Saves the draft; undefined if that failed.
  save: () => Promise<unknown>;
  // The id of a past run that is shown again, or "".
  replayedRun: string;
  nodes: FlowNode[];
  onProgress: (progress: Record<string, NodeProgress>) => void;
  onReplay: (run: string) => void;
}

const eventsPath = (run: string) => `/admin/v1/runs/${run}/events`;

// Which of the nodes that can start a run is to start it; "" for the server's choice.
const useRoot = (nodes: FlowNode[]) => {
  const [chosenRoot, setRoot] = useState("");
  const roots = nodes.filter((node) => ROOTS.includes(node.data.node.type));
  const root = roots.some((node) => node.id === chosenRoot) ? chosenRoot : "";
  return { roots, root, setRoot };
};

const useRunPanel = ({ id, isChat, isDirty, save, replayedRun, nodes, onProgress, onReplay }: RunPanelOptions) => {
  const errorText = useWrong();
  const { roots, root, setRoot } = useRoot(nodes);
  const form = useQuery({
    queryKey: ["form", id, "draft", isDirty, root],
    // The server does not know a node that is not saved yet.
    queryFn: () => api.appForm(id, true, isDirty ? "" : root),
  });
  const runs = useQuery({ queryKey: ["runs", id], queryFn: () => api.appRuns(id) });
  const [values, setValues] = useKept<Record<string, unknown>>(`try.${id}`, {});
  const [query, setQuery] = useState("");
  const trace = useRunTrace(onProgress, () => void runs.refetch());
  const start = async () => {
    if (isDirty && !(await save())) return;
    onReplay("");
    const saved = await api.appForm(id, true, root).catch((error: unknown) => trace.setError(errorText(error)));
    if (!saved) return;
    const body = {
      draft: true,
      inputs: ready(values, saved.data as Form[]),
      ...(isChat ? { query } : {}),
      ...(root ? { root } : {}),
    };
    const init = { method: "POST", body: JSON.stringify(body) };
    await trace.follow(`/admin/v1/apps/${encodeURIComponent(id)}/runs`, init);
  };
  // biome-ignore lint/correctness/useExhaustiveDependencies: each run that is asked for is followed once
  useEffect(() => {
    if (replayedRun) void trace.follow(eventsPath(encodeURIComponent(replayedRun)), {});
  }, [replayedRun]);
  const control = useDo(
    async (verb: "stop" | "pause" | "resume") => {
      const result = await api.control(trace.runId, verb);
      if (verb === "resume") void trace.follow(eventsPath(trace.runId), {});
      return result;
    },
    ["runs"],
  );
  return { roots, root, setRoot, form, runs, values, setValues, query, setQuery, trace, start, control };
};
type RunControl = ReturnType<typeof useRunPanel>;

const RootPick = ({ panel }: { panel: RunControl }) => {
  const { t } = useChosen();
  if (panel.roots.length < 2) return null;
  return (
    <Pick
      label={t.beginsAt}
      value={panel.root || panel.roots[0]!.id}
      onChange={panel.setRoot}
      options={panel.roots.map((node) => [node.id, node.data.node.title] as const)}
    />
  );
};

const RunButtons = ({ panel, isDirty }: { panel: RunControl; isDirty: boolean }) => {
  const { t } = useChosen();
  const { trace, control } = panel;
  const isPaused = lastRun(trace)?.status === "paused";
  return (
    <div className="row tight">
      <button type="submit" className="primary" disabled={trace.isBusy}>
        {isDirty ? t.saveAndRun : t.runDraft}
      </button>
      {trace.isBusy && trace.runId && (
        <>
          <button type="button" onClick={() => void control.run("stop")}>
            {t.stop}
          </button>
          <button type="button" onClick={() => void control.run("pause")}>
            {t.pause}
          </button>
        </>
      )}
      {!trace.isBusy && isPaused && (
        <button type="button" onClick={() => void control.run("resume")}>
          {t.goOn}
        </button>
      )}
    </div>
  );
};

const RunForm = ({ id, panel, isChat, isDirty }: { panel: RunControl } & RunFormOptions) => {
  const { t } = useChosen();
  const upload = useUpload(id);
  const { form, values, setValues, query, setQuery } = panel;
  const onSubmit = (event: FormEvent) => {
    event.preventDefault();
    void panel.start();
  };
  return (
    <form className="form" onSubmit={onSubmit}>
      <h2>{t.run}</h2>
      <Trouble of={[form]} />
      <RootPick panel={panel} />
      {form.data && <Inputs upload={upload} form={form.data.data as Form[]} values={values} onChange={setValues} />}
      {isChat && (
        <Field label={t.message}>
          <textarea required rows={2} value={query} onChange={(event) => setQuery(event.target.value)} />
        </Field>
      )}
      <RunButtons panel={panel} isDirty={isDirty} />
    </form>
  );
};
type RunFormOptions = { id: string; isChat: boolean; isDirty: boolean };

// The run as it was at its end, or where it paused.
const lastRun = (trace: RunTrace): Shape<"RunView"> | undefined =>
  trace.events.findLast((event) => event.event === "end")?.run;

const RunResult = ({ trace }: { trace: RunTrace }) => {
  const { t, span } = useChosen();
  const run = lastRun(trace);
  const shownRun = trace.position === null ? run : undefined;
  const text = streamedText(trace.shownEvents);
  const error = trace.error || run?.error;
  return (
    <>
      <div role="status">
        {trace.isBusy && (
          <p>
            <Status is="running" />
          </p>
        )}
        {shownRun && (
          <p>
            <Status is={shownRun.status} /> {span(shownRun.elapsed)}
          </p>
        )}
        {error && <p className="wrong">{error}</p>}
      </div>
      {text && <blockquote>{text}</blockquote>}
      {shownRun && Object.keys(shownRun.outputs).length > 0 && (
        <>
          <h3>{t.outputs}</h3>
          <Json value={shownRun.outputs} />
        </>
      )}
    </>
  );
};

// Shows the run as it was after some of its events.
const ReplaySlider = ({ trace }: { trace: RunTrace }) => {
  const { t } = useChosen();
  const eventCount = trace.events.length;
  if (eventCount < 2 || trace.isBusy) return null;
  return (
    <Field label={t.replayTo}>
      <input
        type="range"
        min={0}
        max={eventCount}
        value={trace.position ?? eventCount}
        onChange={(event) => {
          const position = Number(event.target.value);
          trace.setPosition(position === eventCount ? null : position);
        }}
      />
    </Field>
  );
};

const Steps = ({
  events,
  titles,
  onOpen,
}: {
  events: RunEvent[];
  titles: Map<string, string>;
  onOpen: (event: RunEvent) => void;
}) => {
  const endEvents = events.filter(endStatus);
  if (!endEvents.length) return null;
  return (
    <ol>
      {endEvents.map((event, index) => (
        <li key={index}>
          <button type="button" className="link" onClick={() => onOpen(event)}>
            {titles.get(event.node_id ?? "") || event.title || event.node_id}
          </button>{" "}
          <Status is={endStatus(event)!} />
        </li>
      ))}
    </ol>
  );
};

const PastRuns = ({
  runs,
  replayedRun,
  onReplay,
}: {
  runs: UseQueryResult<Shape<"RunPage">>;
  replayedRun: string;
  onReplay: (run: string) => void;
}) => {
  const { t, time } = useChosen();
  return (
    <details>
      <summary>{t.pastRuns}</summary>
      <ul className="plain">
        {(runs.data?.data ?? []).map((run) => (
          <li key={run.id}>
            <button
              type="button"
              className="link"
              onClick={() => onReplay(run.id)}
              aria-current={run.id === replayedRun ? "true" : undefined}
            >
              {time(run.created_at)}
            </button>{" "}
            <Status is={run.status} />
          </li>
        ))}
      </ul>
    </details>
  );
};

const Section = ({ title, value }: { title: ReactNode; value: unknown }) => (
  <>
    <h3>{title}</h3>
    <Json value={value} />
  </>
);

const StepDialog = ({ event, title, onClose }: { event: RunEvent | null; title: string; onClose: () => void }) => {
  const { t } = useChosen();
  return (
    <Dialog title={title} isOpen={event !== null} onClose={onClose} isWide>
      {event && (
        <>
          {event.error && <p className="wrong">{event.error}</p>}
          <Section title={t.inputs} value={event.inputs ?? {}} />
          <Section title={t.outputs} value={event.outputs ?? {}} />
          {event.process_data && <Section title={t.details} value={event.process_data} />}
        </>
      )}
    </Dialog>
  );
};

export const RunPanel = (options: RunPanelOptions) => {
  const { t } = useChosen();
  const panel = useRunPanel(options);
  const { trace, runs } = panel;
  const [openEvent, setOpenEvent] = useState<RunEvent | null>(null);
  const titles = new Map(options.nodes.map((node) => [node.id, node.data.node.title]));
  return (
    <aside className="inspector" aria-label={t.run}>
      <RunForm id={options.id} panel={panel} isChat={options.isChat} isDirty={options.isDirty} />
      <RunResult trace={trace} />
      <ReplaySlider trace={trace} />
      <Steps events={trace.shownEvents} titles={titles} onOpen={setOpenEvent} />
      <PastRuns runs={runs} replayedRun={options.replayedRun} onReplay={options.onReplay} />
      <StepDialog
        event={openEvent}
        title={titles.get(openEvent?.node_id ?? "") ?? ""}
        onClose={() => setOpenEvent(null)}
      />
    </aside>
  );
};
