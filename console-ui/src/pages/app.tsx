import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { lazy, Suspense, useState } from "react";
import { addressed, api, type Shape } from "../api";
import { useDo } from "../components/actions";
import { PageTabs, Switch } from "../components/aria";
import { Card, Copied, Empty, Field, Json, Loading, Page, Status, Trouble } from "../components/base";
import { Dialog, Sure } from "../components/dialog";
import { Table } from "../components/table";
import { TryApp } from "../components/try-app";
import { Markdown } from "../markdown";
import { filled } from "../messages";
import { useMay } from "../permissions";
import { useChosen, useKept } from "../settings";
import { AppIcon, AppMenu, AppTagList } from "./app-card";
import { hasCanvas } from "./app-list";
import { Traces } from "./app-traces";
import { SimpleForm } from "./prompt-form";

// It brings the charts, which the page's other tabs do not need.
const Statistics = lazy(() => import("./app-statistics").then((module) => ({ default: module.Statistics })));
// It has the controls of the canvas.
const AgentAppForm = lazy(() =>
  import("../canvas/agent-app-form").then((module) => ({ default: module.AgentAppForm })),
);
const Code = lazy(() => import("../components/code").then((module) => ({ default: module.Code })));

export const AppPage = () => {
  const { t } = useChosen();
  const { id } = useParams({ strict: false }) as { id: string };
  const navigate = useNavigate();
  const app = useQuery({ queryKey: ["apps", id], queryFn: () => api.app(id) });
  const remove = useDo(() => api.remove("apps", id), ["apps"], t.removed);
  const { may } = useMay();
  const view = app.data;
  return (
    <Page
      title={view?.name ?? t.app}
      text={view ? (t.modes as Record<string, string>)[view.mode] : undefined}
      actions={
        <>
          {view && hasCanvas(view.mode) && (
            <Link className="button primary" to="/workflows/$id" params={{ id }}>
              {t.canvas}
            </Link>
          )}
          {view && <AppMenu app={view} />}
          <Sure
            label={t.remove}
            question={filled(t.sureRemove, { name: view?.name ?? "" })}
            onSure={() => remove.run().then(() => navigate({ to: "/apps" }))}
          />
        </>
      }
    >
      <p>
        <Link to="/apps">← {t.apps}</Link>
      </p>
      <Trouble of={[app]} />
      <Loading of={[app]} />
      {view && (
        <div className="row tight">
          <AppIcon app={view} />
          {view.description && <p>{view.description}</p>}
          <AppTagList app={view} />
        </div>
      )}
      {view && (
        <PageTabs
          label={view.name}
          tabs={[
            { id: "try", title: t.tryIt, body: () => <TryApp id={id} isDraft={!view.is_published} /> },
            { id: "publish", title: t.publishing, body: () => <Publishing id={id} /> },
            { id: "setup", title: t.promptsAndTools, body: () => <Setup id={id} /> },
            { id: "statistics", title: t.statistics, body: () => <LazyStatistics id={id} name={view.name} /> },
            { id: "talks", title: t.conversations, body: () => <Talks id={id} /> },
            { id: "runs", title: t.runs, body: () => <RunList id={id} /> },
            { id: "annotations", title: t.annotations, body: () => <Annotations id={id} /> },
            { id: "feedback", title: t.feedback, body: () => <Feedback id={id} /> },
            // The keys of other services are an administrator's.
            ...(may("admin") ? [{ id: "traces", title: t.traces, body: () => <Traces id={id} /> }] : []),
          ]}
        />
      )}
    </Page>
  );
};

const LazyStatistics = (options: { id: string; name: string }) => (
  <Suspense fallback={null}>
    <Statistics {...options} />
  </Suspense>
);

type AppView = Shape<"AppView">;

const Publishing = ({ id }: { id: string }) => {
  const app = useQuery({ queryKey: ["apps", id], queryFn: () => api.app(id) });
  if (!app.data) return null;
  return (
    <>
      <Versions id={id} app={app.data} />
      <Begins id={id} />
      <PublicPage id={id} app={app.data} />
      <AppKeys id={id} />
    </>
  );
};

const Versions = ({ id, app }: { id: string; app: AppView }) => {
  const { t, time } = useChosen();
  const restore = useDo((version: string) => api.restore(id, version), ["apps"], t.restored);
  return (
    <Card title={t.publishing}>
      <p>
        {app.is_published ? t.published : t.neverPublished}
        {app.has_draft ? ` · ${t.hasDraft}` : ""}
      </p>
      {app.has_draft && <PublishForm id={id} />}
      {(app.versions?.length ?? 0) > 0 && (
        <Table
          caption={t.versions}
          rows={app.versions!}
          id={(row) => `${row.digest} ${row.published_at}`}
          columns={[
            {
              title: t.version,
              cell: (row) => (
                <>
                  {row.name || <code>{row.digest.slice(0, 10)}</code>}{" "}
                  {row.note && <span className="soft">{row.note}</span>}
                </>
              ),
            },
            { title: t.when, cell: (row) => time(row.published_at) },
            {
              title: t.actions,
              cell: (row) => (
                <button type="button" onClick={() => void restore.run(row.digest)}>
                  {t.asDraft}
                </button>
              ),
            },
          ]}
        />
      )}
      <p>
        <a className="button" href={addressed(`/admin/v1/apps/${id}/file`)} download={`${app.name}.yml`}>
          {t.exportFile}
        </a>
      </p>
    </Card>
  );
};

const PublishForm = ({ id }: { id: string }) => {
  const { t } = useChosen();
  const [name, setName] = useState("");
  const publish = useDo(() => api.publish(id, name), ["apps"], t.publishedNow);
  return (
    <form
      className="row"
      onSubmit={(event) => {
        event.preventDefault();
        void publish.run();
      }}
    >
      <Field label={t.versionName}>
        <input value={name} onChange={(event) => setName(event.target.value)} />
      </Field>
      <button type="submit" className="primary">
        {t.publish}
      </button>
    </form>
  );
};

const PublicPage = ({ id, app }: { id: string; app: AppView }) => {
  const { t } = useChosen();
  const page = useDo((is: boolean) => api.setApp(id, { page: { is_on: is } }), ["apps"]);
  const { url } = app.page;
  const embed = `<iframe src="${url ?? ""}" title="${app.name.replaceAll('"', "&quot;")}" width="400" height="600"></iframe>`;
  return (
    <Card title={t.itsPage}>
      {!app.is_published ? (
        <p className="soft">{t.publishFirst}</p>
      ) : (
        <Switch label={t.pageOn} isOn={app.page.is_on} onChange={(is) => void page.run(is)} />
      )}
      {url && (
        <>
          <p>
            <a href={url} target="_blank" rel="noopener">
              {url}
            </a>{" "}
            <Copied text={url} />
          </p>
          <Field label={t.embed}>
            <textarea readOnly rows={2} className="mono" value={embed} />
          </Field>
        </>
      )}
    </Card>
  );
};

const AppKeys = ({ id }: { id: string }) => {
  const { t } = useChosen();
  const keys = useQuery({ queryKey: ["app keys", id], queryFn: () => api.appKeys(id) });
  // The new key itself, which the server shows once.
  const [secret, setSecret] = useState("");
  const makeKey = useDo(() => api.makeAppKey(id), ["app keys"]);
  const removeKey = useDo((key: string) => api.removeAppKey(id, key), ["app keys"], t.removed);
  const onMake = async () => {
    const created = await makeKey.run();
    if (created) setSecret(created.key ?? "");
  };
  return (
    <Card
      title={t.itsKeys}
      actions={
        <button type="button" onClick={() => void onMake()}>
          {t.makeKey}
        </button>
      }
    >
      <p className="soft">
        {t.itsKeysText} <code>{location.origin}/v1/chat-messages</code>
      </p>
      <Trouble of={[keys]} />
      <ul className="plain">
        {(keys.data ?? []).map((key) => (
          <li key={key.id} className="row">
            <code>{key.hint}</code>
            <Sure
              label={t.remove}
              question={filled(t.sureRemove, { name: key.hint ?? "" })}
              onSure={() => removeKey.run(key.id)}
            />
          </li>
        ))}
      </ul>
      <Dialog title={t.newKey} isOpen={secret !== ""} onClose={() => setSecret("")}>
        <p>{t.newKeyText}</p>
        <p>
          <code className="secret">{secret}</code>
        </p>
        <Copied text={secret} />
      </Dialog>
    </Card>
  );
};

// What begins its runs without a caller: nothing is shown where nothing does.
const Begins = ({ id }: { id: string }) => {
  const { t, time } = useChosen();
  const triggers = useQuery({ queryKey: ["apps", id, "triggers"], queryFn: () => api.triggers(id) });
  if (!triggers.data?.length) return <Trouble of={[triggers]} />;
  return (
    <Card title={t.beginsByItself}>
      <p className="soft">{t.beginsByItselfText}</p>
      <Table
        caption={t.beginsByItself}
        rows={triggers.data}
        id={(row) => row.node}
        columns={[
          { title: t.name, cell: (row) => row.title },
          {
            title: t.when,
            cell: (row) =>
              row.type === "webhook" ? (
                <>
                  {row.method} <code>{row.address}</code> <Copied text={row.address ?? ""} label={t.copyAddress} />
                </>
              ) : row.type === "schedule" ? (
                <>
                  <code>{row.cron}</code> {row.timezone}
                  {row.next?.[0] && <span className="soft"> · {time(row.next[0])}</span>}
                </>
              ) : (
                `${row.event ?? ""} · ${row.provider ?? ""}`
              ),
          },
          { title: t.state, cell: (row) => (row.is_live ? t.inForce : t.notLive) },
        ]}
      />
    </Card>
  );
};

// The app's file, edited as it is: prompts, tools, features. What two people change at once is not overwritten.
const Setup = ({ id }: { id: string }) => {
  const { t } = useChosen();
  const app = useQuery({ queryKey: ["apps", id], queryFn: () => api.app(id) });
  const file = useQuery({
    queryKey: ["app file", id, app.data?.digest],
    queryFn: () => api.appFile(id),
    enabled: !!app.data,
  });
  const [text, setText] = useKept<string | null>(`app.${id}`, null);
  const [base, setBase] = useKept<string>(`app.${id}.base`, "");
  const shown = text ?? file.data ?? "";
  const edit = (next: string) => {
    if (next === file.data && text === null) return;
    setText(next);
    if (!base) setBase(app.data?.digest ?? "");
  };
  const save = useDo(
    async () => {
      const saved = await api.saveApp(id, shown, base || app.data!.digest);
      setText(null);
      setBase("");
      return saved;
    },
    ["apps", "app file"],
    t.draftSaved,
  );
  const check = useQuery({
    queryKey: ["check", shown],
    queryFn: () => api.checkApp(shown),
    enabled: text !== null,
    placeholderData: (before) => before,
  });
  const isConflict = text !== null && base !== "" && app.data !== undefined && base !== app.data.digest;
  return (
    <Card
      title={t.promptsAndTools}
      actions={
        <>
          {text !== null && (
            <button
              type="button"
              onClick={() => {
                setText(null);
                setBase("");
              }}
            >
              {t.discard}
            </button>
          )}
          <button
            type="button"
            className="primary"
            disabled={text === null || save.isBusy || isConflict}
            onClick={() => void save.run()}
          >
            {t.saveDraft}
          </button>
        </>
      }
    >
      <p className="soft">{t.setupText}</p>
      {isConflict && (
        <p className="wrong" role="alert">
          {t.conflict}{" "}
          <button type="button" className="link" onClick={() => setBase(app.data!.digest)}>
            {t.overwrite}
          </button>
        </p>
      )}
      <Trouble of={[file, save]} />
      {app.data && ["chat", "agent-chat", "completion"].includes(app.data.mode) && (
        <SimpleForm mode={app.data.mode} text={shown} onChange={edit} />
      )}
      {app.data?.mode === "agent" && (
        <Suspense fallback={null}>
          <AgentAppForm id={id} text={shown} onChange={edit} />
        </Suspense>
      )}
      <h3>{t.allOfTheFile}</h3>
      <Suspense fallback={<p className="soft">…</p>}>
        <Code label={t.promptsAndTools} language="yaml" value={shown} onChange={edit} />
      </Suspense>
      {check.data?.problems.map((problem) => (
        <p className="wrong" key={`${problem.line} ${problem.message}`}>
          {filled(t.line, { number: problem.line })} {problem.node} {problem.field} {problem.message}
        </p>
      ))}
      {(check.data?.needs.length ?? 0) > 0 && (
        <p className="soft">
          {t.needs} {check.data!.needs.join(", ")}
        </p>
      )}
    </Card>
  );
};

const Talks = ({ id }: { id: string }) => {
  const { t, time } = useChosen();
  const talks = useQuery({ queryKey: ["conversations", id], queryFn: () => api.conversations(id) });
  const [open, setOpen] = useState("");
  const messages = useQuery({
    queryKey: ["messages", open],
    queryFn: () => api.messages(id, open),
    enabled: open !== "",
  });
  return (
    <Card title={t.conversations}>
      <Trouble of={[talks]} />
      {talks.data && !talks.data.length && <Empty title={t.noConversations} />}
      {(talks.data?.length ?? 0) > 0 && (
        <Table
          caption={t.conversations}
          rows={talks.data!}
          id={(row) => row.id}
          columns={[
            {
              title: t.name,
              cell: (row) => (
                <button type="button" className="link" onClick={() => setOpen(row.id)}>
                  {row.name || t.untitled}
                </button>
              ),
            },
            { title: t.user, cell: (row) => row.user },
            { title: t.when, cell: (row) => time(row.updated_at) },
          ]}
        />
      )}
      <Dialog
        title={talks.data?.find((talk) => talk.id === open)?.name ?? ""}
        isOpen={open !== ""}
        onClose={() => setOpen("")}
        isWide
      >
        <Trouble of={[messages]} />
        {[...(messages.data ?? [])]
          .sort((a, b) => a.created_at - b.created_at)
          .map((message) => (
            <article key={message.id} className="turns">
              <div className="turn user">
                <p>{message.query}</p>
              </div>
              {message.thoughts.length > 0 && (
                <details>
                  <summary>{filled(t.steps, { count: message.thoughts.length })}</summary>
                  <Json value={message.thoughts} />
                </details>
              )}
              <div className="turn assistant">
                <Markdown text={message.answer} />
              </div>
              {message.error && <p className="wrong">{message.error}</p>}
              <p className="soft small">
                {time(message.created_at)}
                {message.rating && ` · ${(t.ratings as Record<string, string>)[message.rating] ?? message.rating}`}
              </p>
            </article>
          ))}
      </Dialog>
    </Card>
  );
};

const RunList = ({ id }: { id: string }) => {
  const { t, time, span, number } = useChosen();
  const runs = useQuery({ queryKey: ["runs", id], queryFn: () => api.appRuns(id), refetchInterval: 5000 });
  const app = useQuery({ queryKey: ["apps", id], queryFn: () => api.app(id) });
  const [open, setOpen] = useState("");
  const run = runs.data?.data.find((candidate) => candidate.id === open);
  const isDrawn = app.data && /workflow|advanced|rag/.test(app.data.mode);
  return (
    <Card title={t.runs}>
      <Trouble of={[runs]} />
      {runs.data && !runs.data.data.length && <Empty title={t.noRuns} />}
      {(runs.data?.data.length ?? 0) > 0 && (
        <Table
          caption={t.runs}
          rows={runs.data!.data}
          id={(row) => row.id}
          columns={[
            {
              title: t.when,
              cell: (row) =>
                isDrawn ? (
                  <Link to="/workflows/$id" params={{ id }} search={{ run: row.id } as never}>
                    {time(row.created_at)}
                  </Link>
                ) : (
                  <button type="button" className="link" onClick={() => setOpen(row.id)}>
                    {time(row.created_at)}
                  </button>
                ),
            },
            { title: t.status, cell: (row) => <Status is={row.status} /> },
            { title: t.took, cell: (row) => span(row.elapsed), isNumber: true },
            { title: t.tokens, cell: (row) => number(row.total_tokens), isNumber: true },
            {
              title: t.from,
              cell: (row) => (t.origins as Record<string, string>)[row.created_from] ?? row.created_from,
            },
          ]}
        />
      )}
      <Dialog title={t.run} isOpen={run !== undefined} onClose={() => setOpen("")} isWide>
        {run && (
          <>
            <Json value={run.inputs} />
            <Json value={run.outputs} />
            {run.error && <p className="wrong">{run.error}</p>}
          </>
        )}
      </Dialog>
    </Card>
  );
};

const Annotations = ({ id }: { id: string }) => {
  const { t, number } = useChosen();
  const annotations = useQuery({ queryKey: ["annotations", id], queryFn: () => api.annotations(id) });
  const [form, set] = useState({ question: "", answer: "" });
  const add = useDo(() => api.annotate(id, form.question, form.answer), ["annotations"], t.saved);
  const remove = useDo((annotation: string) => api.removeAnnotation(id, annotation), ["annotations"], t.removed);
  return (
    <Card title={t.annotations}>
      <p className="soft">{t.annotationsText}</p>
      <Trouble of={[annotations]} />
      {(annotations.data?.length ?? 0) > 0 && (
        <Table
          caption={t.annotations}
          rows={annotations.data!}
          id={(row) => row.id}
          columns={[
            { title: t.question, cell: (row) => row.question },
            { title: t.answer, cell: (row) => row.answer },
            { title: t.hits, cell: (row) => number(row.hits), isNumber: true },
            {
              title: t.actions,
              cell: (row) => (
                <Sure
                  label={t.remove}
                  question={filled(t.sureRemove, { name: row.question })}
                  onSure={() => remove.run(row.id)}
                />
              ),
            },
          ]}
        />
      )}
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void add.run().then(() => set({ question: "", answer: "" }));
        }}
      >
        <Field label={t.question}>
          <input required value={form.question} onChange={(event) => set({ ...form, question: event.target.value })} />
        </Field>
        <Field label={t.answer}>
          <textarea
            required
            rows={2}
            value={form.answer}
            onChange={(event) => set({ ...form, answer: event.target.value })}
          />
        </Field>
        <button type="submit" disabled={add.isBusy}>
          {t.add}
        </button>
      </form>
    </Card>
  );
};

const Feedback = ({ id }: { id: string }) => {
  const { t, time } = useChosen();
  const feedback = useQuery({ queryKey: ["feedback", id], queryFn: () => api.feedback(id) });
  return (
    <Card title={t.feedback}>
      <Trouble of={[feedback]} />
      {feedback.data && !feedback.data.length && <Empty title={t.noFeedback} />}
      {(feedback.data?.length ?? 0) > 0 && (
        <Table
          caption={t.feedback}
          rows={feedback.data!}
          id={(row) => row.id}
          columns={[
            { title: t.question, cell: (row) => row.query },
            { title: t.answer, cell: (row) => row.answer.slice(0, 200) },
            { title: t.rating, cell: (row) => (t.ratings as Record<string, string>)[row.rating] ?? row.rating },
            { title: t.when, cell: (row) => time(row.created_at) },
          ]}
        />
      )}
    </Card>
  );
};
