import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { lazy, Suspense, useState } from "react";
import { isMap, parseDocument } from "yaml";
import { addressed, api } from "../api";
import { useDo } from "../components/actions";
import { PageTabs, Switch } from "../components/aria";
import { Card, Copied, Empty, Field, Json, Page, Pick, Status, Trouble } from "../components/base";
import { Dialog, Sure } from "../components/dialog";
import { ModelPick } from "../components/models";
import { Table } from "../components/table";
import { useTools } from "../components/tools";
import { TryApp } from "../components/try-app";
import { Markdown } from "../markdown";
import { filled } from "../messages";
import { useChosen, useKept } from "../settings";

const Code = lazy(() => import("../components/code").then((it) => ({ default: it.Code })));

export const AppPage = () => {
  const { t } = useChosen();
  const { id } = useParams({ strict: false }) as { id: string };
  const navigate = useNavigate();
  const app = useQuery({ queryKey: ["apps", id], queryFn: () => api.app(id) });
  const remove = useDo(() => api.remove("apps", id), ["apps"], t.removed);
  const one = app.data;
  const hasCanvas = one && (one.mode === "workflow" || one.mode === "advanced-chat" || one.mode === "rag-pipeline");
  return (
    <Page
      title={one?.name ?? t.app}
      text={one ? (t.modes as Record<string, string>)[one.mode] : undefined}
      actions={
        <>
          {hasCanvas && (
            <Link className="button primary" to="/workflows/$id" params={{ id }}>
              {t.canvas}
            </Link>
          )}
          <Sure
            label={t.remove}
            question={filled(t.sureRemove, { name: one?.name ?? "" })}
            onSure={() => remove.run().then(() => navigate({ to: "/apps" }))}
          />
        </>
      }
    >
      <p>
        <Link to="/apps">← {t.apps}</Link>
      </p>
      <Trouble of={[app]} />
      {one && (
        <PageTabs
          label={one.name}
          tabs={[
            { id: "try", title: t.tryIt, body: () => <TryApp id={id} isDraft={!one.is_published} /> },
            { id: "publish", title: t.publishing, body: () => <Publishing id={id} /> },
            { id: "setup", title: t.promptsAndTools, body: () => <Setup id={id} /> },
            { id: "talks", title: t.conversations, body: () => <Talks id={id} /> },
            { id: "runs", title: t.runs, body: () => <RunList id={id} /> },
            { id: "annotations", title: t.annotations, body: () => <Annotations id={id} /> },
            { id: "feedback", title: t.feedback, body: () => <Feedback id={id} /> },
          ]}
        />
      )}
    </Page>
  );
};

const Publishing = ({ id }: { id: string }) => {
  const { t, time } = useChosen();
  const app = useQuery({ queryKey: ["apps", id], queryFn: () => api.app(id) });
  const keys = useQuery({ queryKey: ["app keys", id], queryFn: () => api.appKeys(id) });
  const [shown, setShown] = useState("");
  const [name, setName] = useState("");
  const publish = useDo(() => api.publish(id, name), ["apps"], t.publishedNow);
  const restore = useDo((version: string) => api.restore(id, version), ["apps"], t.restored);
  const page = useDo((is: boolean) => api.setApp(id, { page: { is_on: is } }), ["apps"]);
  const makeKey = useDo(() => api.makeAppKey(id), ["app keys"]);
  const removeKey = useDo((key: string) => api.removeAppKey(id, key), ["app keys"], t.removed);
  const one = app.data;
  if (!one) return null;
  const embed = `<iframe src="${one.page.url ?? ""}" title="${one.name.replaceAll('"', "&quot;")}" width="400" height="600"></iframe>`;
  return (
    <>
      <Card title={t.publishing}>
        <p>
          {one.is_published ? t.published : t.neverPublished}
          {one.has_draft ? ` · ${t.hasDraft}` : ""}
        </p>
        {one.has_draft && (
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
        )}
        {(one.versions?.length ?? 0) > 0 && (
          <Table
            caption={t.versions}
            rows={one.versions!}
            id={(each) => `${each.digest} ${each.published_at}`}
            columns={[
              {
                title: t.version,
                cell: (each) => (
                  <>
                    {each.name || <code>{each.digest.slice(0, 10)}</code>}{" "}
                    {each.note && <span className="soft">{each.note}</span>}
                  </>
                ),
              },
              { title: t.when, cell: (each) => time(each.published_at) },
              {
                title: t.actions,
                cell: (each) => (
                  <button type="button" onClick={() => void restore.run(each.digest)}>
                    {t.asDraft}
                  </button>
                ),
              },
            ]}
          />
        )}
        <p>
          <a className="button" href={addressed(`/admin/v1/apps/${id}/file`)} download={`${one.name}.yml`}>
            {t.exportFile}
          </a>
        </p>
      </Card>
      <Begins id={id} />
      <Card title={t.itsPage}>
        {!one.is_published ? (
          <p className="soft">{t.publishFirst}</p>
        ) : (
          <Switch label={t.pageOn} isOn={one.page.is_on} onChange={(is) => void page.run(is)} />
        )}
        {one.page.url && (
          <>
            <p>
              <a href={one.page.url} target="_blank" rel="noopener">
                {one.page.url}
              </a>{" "}
              <Copied text={one.page.url} />
            </p>
            <Field label={t.embed}>
              <textarea readOnly rows={2} className="mono" value={embed} />
            </Field>
          </>
        )}
      </Card>
      <Card
        title={t.itsKeys}
        actions={
          <button
            type="button"
            onClick={() =>
              void makeKey.run().then((made) => {
                if (made) setShown(made.key ?? "");
              })
            }
          >
            {t.makeKey}
          </button>
        }
      >
        <p className="soft">
          {t.itsKeysText} <code>{location.origin}/v1/chat-messages</code>
        </p>
        <Trouble of={[keys]} />
        <ul className="plain">
          {(keys.data ?? []).map((each) => (
            <li key={each.id} className="row">
              <code>{each.hint}</code>
              <Sure
                label={t.remove}
                question={filled(t.sureRemove, { name: each.hint ?? "" })}
                onSure={() => removeKey.run(each.id)}
              />
            </li>
          ))}
        </ul>
        <Dialog title={t.newKey} isOpen={shown !== ""} onClose={() => setShown("")}>
          <p>{t.newKeyText}</p>
          <p>
            <code className="secret">{shown}</code>
          </p>
          <Copied text={shown} />
        </Dialog>
      </Card>
    </>
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
        id={(one) => one.node}
        columns={[
          { title: t.name, cell: (one) => one.title },
          {
            title: t.when,
            cell: (one) =>
              one.type === "webhook" ? (
                <>
                  {one.method} <code>{one.address}</code> <Copied text={one.address ?? ""} label={t.copyAddress} />
                </>
              ) : one.type === "schedule" ? (
                <>
                  <code>{one.cron}</code> {one.timezone}
                  {one.next?.[0] && <span className="soft"> · {time(one.next[0])}</span>}
                </>
              ) : (
                `${one.event ?? ""} · ${one.provider ?? ""}`
              ),
          },
          { title: t.state, cell: (one) => (one.is_live ? t.inForce : t.notLive) },
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
      const made = await api.saveApp(id, shown, base || app.data!.digest);
      setText(null);
      setBase("");
      return made;
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
      <h3>{t.allOfTheFile}</h3>
      <Suspense fallback={<p className="soft">…</p>}>
        <Code label={t.promptsAndTools} language="yaml" value={shown} onChange={edit} />
      </Suspense>
      {check.data?.problems.map((one) => (
        <p className="wrong" key={`${one.line} ${one.message}`}>
          {filled(t.line, { number: one.line })} {one.node} {one.field} {one.message}
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

interface AgentTool {
  provider_id: string;
  tool_name: string;
  enabled?: boolean;
}
// What is said of an app with one prompt most often; whatever else its file says stays.
const SimpleForm = ({ mode, text, onChange }: { mode: string; text: string; onChange: (text: string) => void }) => {
  const { t } = useChosen();
  const tools = useTools("", mode === "agent-chat");
  const datasets = useQuery({ queryKey: ["datasets"], queryFn: api.datasets, staleTime: 60_000 });
  const document = parseDocument(text);
  if (document.errors.length || !isMap(document.contents)) return null;
  const at = (...path: string[]) => document.getIn(["model_config", ...path]);
  const put = (path: string[], value: unknown) => {
    const next = parseDocument(text);
    next.setIn(["model_config", ...path], next.createNode(value));
    onChange(next.toString({ lineWidth: 0 }));
  };
  const plain = <T,>(value: unknown, otherwise: T): T =>
    value && typeof value === "object" && "toJSON" in value
      ? (value as { toJSON: () => T }).toJSON()
      : ((value as T | null | undefined) ?? otherwise);
  const model = plain<{ provider?: string; name?: string }>(at("model"), {});
  const short = (model.provider ?? "").split("/").at(-1) ?? "";
  const chosen = plain<AgentTool[]>(at("agent_mode", "tools"), []);
  const read = plain<{ dataset: { id: string; enabled?: boolean } }[]>(
    at("dataset_configs", "datasets", "datasets"),
    [],
  );
  return (
    <div className="form">
      <ModelPick
        type="llm"
        value={short && model.name ? `${short}/${model.name}` : (model.name ?? "default")}
        onChange={(next) => {
          const [provider, ...rest] = next.split("/");
          put(
            ["model"],
            rest.length
              ? { ...model, provider, name: rest.join("/"), mode: "chat" }
              : { ...model, provider: "", name: next, mode: "chat" },
          );
        }}
      />
      <Field label={t.fields.prompt}>
        <textarea
          rows={4}
          value={String(at("pre_prompt") ?? "")}
          onChange={(event) => put(["pre_prompt"], event.target.value)}
        />
      </Field>
      {mode !== "completion" && (
        <Field label={t.openingStatement}>
          <textarea
            rows={2}
            value={String(at("opening_statement") ?? "")}
            onChange={(event) => put(["opening_statement"], event.target.value)}
          />
        </Field>
      )}
      {mode !== "completion" && (
        <Field label={t.suggestedQuestions} help={t.oneALine}>
          <textarea
            rows={2}
            value={plain<string[]>(at("suggested_questions"), []).join("\n")}
            onChange={(event) => put(["suggested_questions"], event.target.value.split("\n"))}
          />
        </Field>
      )}
      {mode === "agent-chat" && (
        <>
          <Pick
            label={t.agentStrategy}
            value={String(at("agent_mode", "strategy") ?? "function_call")}
            onChange={(one) => put(["agent_mode", "strategy"], one)}
            options={["function_call", "react"]}
          />
          <fieldset>
            <legend>{t.mayUse}</legend>
            <div className="fields">
              {(tools.data ?? [])
                .filter((one) => ["builtin", "plugin", "workflow", "api", "mcp"].includes(one.kind))
                .map((one) => (
                  <label className="check" key={`${one.provider} ${one.name}`} title={one.description}>
                    <input
                      type="checkbox"
                      checked={chosen.some((each) => each.tool_name === one.name && each.provider_id === one.provider)}
                      onChange={(event) =>
                        put(
                          ["agent_mode", "tools"],
                          event.target.checked
                            ? [
                                ...chosen,
                                {
                                  enabled: true,
                                  provider_id: one.provider,
                                  provider_name: one.provider,
                                  provider_type: one.kind === "plugin" ? "builtin" : one.kind,
                                  tool_name: one.name,
                                  tool_label: one.name,
                                  tool_parameters: {},
                                },
                              ]
                            : chosen.filter((each) => each.tool_name !== one.name || each.provider_id !== one.provider),
                        )
                      }
                    />{" "}
                    {one.provider}/{one.name}
                  </label>
                ))}
            </div>
          </fieldset>
        </>
      )}
      {(datasets.data?.length ?? 0) > 0 && mode !== "agent-chat" && (
        <fieldset>
          <legend>{t.mayRead}</legend>
          {datasets.data!.map((one) => (
            <label className="check" key={one.id}>
              <input
                type="checkbox"
                checked={read.some((each) => each.dataset.id === one.id)}
                onChange={(event) =>
                  put(["dataset_configs"], {
                    retrieval_model: "multiple",
                    top_k: 4,
                    ...plain<Record<string, unknown>>(at("dataset_configs"), {}),
                    datasets: {
                      datasets: event.target.checked
                        ? [...read, { dataset: { id: one.id, enabled: true } }]
                        : read.filter((each) => each.dataset.id !== one.id),
                    },
                  })
                }
              />{" "}
              {one.name}
            </label>
          ))}
        </fieldset>
      )}
    </div>
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
          id={(one) => one.id}
          columns={[
            {
              title: t.name,
              cell: (one) => (
                <button type="button" className="link" onClick={() => setOpen(one.id)}>
                  {one.name || t.untitled}
                </button>
              ),
            },
            { title: t.user, cell: (one) => one.user },
            { title: t.when, cell: (one) => time(one.updated_at) },
          ]}
        />
      )}
      <Dialog
        title={talks.data?.find((one) => one.id === open)?.name ?? ""}
        isOpen={open !== ""}
        onClose={() => setOpen("")}
        isWide
      >
        <Trouble of={[messages]} />
        {[...(messages.data ?? [])]
          .sort((a, b) => a.created_at - b.created_at)
          .map((one) => (
            <article key={one.id} className="turns">
              <div className="turn user">
                <p>{one.query}</p>
              </div>
              {one.thoughts.length > 0 && (
                <details>
                  <summary>{filled(t.steps, { count: one.thoughts.length })}</summary>
                  <Json value={one.thoughts} />
                </details>
              )}
              <div className="turn assistant">
                <Markdown text={one.answer} />
              </div>
              {one.error && <p className="wrong">{one.error}</p>}
              <p className="soft small">
                {time(one.created_at)}
                {one.rating && ` · ${(t.ratings as Record<string, string>)[one.rating] ?? one.rating}`}
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
  const one = runs.data?.data.find((each) => each.id === open);
  const isDrawn = app.data && /workflow|advanced|rag/.test(app.data.mode);
  return (
    <Card title={t.runs}>
      <Trouble of={[runs]} />
      {runs.data && !runs.data.data.length && <Empty title={t.noRuns} />}
      {(runs.data?.data.length ?? 0) > 0 && (
        <Table
          caption={t.runs}
          rows={runs.data!.data}
          id={(each) => each.id}
          columns={[
            {
              title: t.when,
              cell: (each) =>
                isDrawn ? (
                  <Link to="/workflows/$id" params={{ id }} search={{ run: each.id } as never}>
                    {time(each.created_at)}
                  </Link>
                ) : (
                  <button type="button" className="link" onClick={() => setOpen(each.id)}>
                    {time(each.created_at)}
                  </button>
                ),
            },
            { title: t.status, cell: (each) => <Status is={each.status} /> },
            { title: t.took, cell: (each) => span(each.elapsed), isNumber: true },
            { title: t.tokens, cell: (each) => number(each.total_tokens), isNumber: true },
            {
              title: t.from,
              cell: (each) => (t.origins as Record<string, string>)[each.created_from] ?? each.created_from,
            },
          ]}
        />
      )}
      <Dialog title={t.run} isOpen={one !== undefined} onClose={() => setOpen("")} isWide>
        {one && (
          <>
            <Json value={one.inputs} />
            <Json value={one.outputs} />
            {one.error && <p className="wrong">{one.error}</p>}
          </>
        )}
      </Dialog>
    </Card>
  );
};

const Annotations = ({ id }: { id: string }) => {
  const { t, number } = useChosen();
  const found = useQuery({ queryKey: ["annotations", id], queryFn: () => api.annotations(id) });
  const [form, set] = useState({ question: "", answer: "" });
  const add = useDo(() => api.annotate(id, form.question, form.answer), ["annotations"], t.saved);
  const remove = useDo((one: string) => api.removeAnnotation(id, one), ["annotations"], t.removed);
  return (
    <Card title={t.annotations}>
      <p className="soft">{t.annotationsText}</p>
      <Trouble of={[found]} />
      {(found.data?.length ?? 0) > 0 && (
        <Table
          caption={t.annotations}
          rows={found.data!}
          id={(one) => one.id}
          columns={[
            { title: t.question, cell: (one) => one.question },
            { title: t.answer, cell: (one) => one.answer },
            { title: t.hits, cell: (one) => number(one.hits), isNumber: true },
            {
              title: t.actions,
              cell: (one) => (
                <Sure
                  label={t.remove}
                  question={filled(t.sureRemove, { name: one.question })}
                  onSure={() => remove.run(one.id)}
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
  const found = useQuery({ queryKey: ["feedback", id], queryFn: () => api.feedback(id) });
  return (
    <Card title={t.feedback}>
      <Trouble of={[found]} />
      {found.data && !found.data.length && <Empty title={t.noFeedback} />}
      {(found.data?.length ?? 0) > 0 && (
        <Table
          caption={t.feedback}
          rows={found.data!}
          id={(one) => one.id}
          columns={[
            { title: t.question, cell: (one) => one.query },
            { title: t.answer, cell: (one) => one.answer.slice(0, 200) },
            { title: t.rating, cell: (one) => (t.ratings as Record<string, string>)[one.rating] ?? one.rating },
            { title: t.when, cell: (one) => time(one.created_at) },
          ]}
        />
      )}
    </Card>
  );
};
