import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api, type Shape } from "../api";
import { blankPromptApp, blankWorkflow } from "../canvas/templates";
import { useDo } from "../components/actions";
import { Switch } from "../components/aria";
import { Card, Drop, Empty, Field, Page, Pick, Trouble, useWrong } from "../components/base";
import { filled } from "../messages";
import { useChosen } from "../settings";

const MAX_BYTES = 10 << 20;
const hasCanvas = (mode: string) => mode === "workflow" || mode === "advanced-chat" || mode === "rag-pipeline";

export const Apps = () => {
  const { t } = useChosen();
  const apps = useQuery({ queryKey: ["apps"], queryFn: api.apps });
  return (
    <Page title={t.apps} text={t.appsText}>
      <Trouble of={[apps]} />
      <New />
      <Import />
      {apps.data && !apps.data.length && (
        <Empty title={t.noApps}>
          <p>{t.noAppsText}</p>
        </Empty>
      )}
      <ul className="grid">
        {(apps.data ?? []).map((app) => (
          <AppCard key={app.id} app={app} />
        ))}
      </ul>
    </Page>
  );
};

const New = () => {
  const { t } = useChosen();
  const navigate = useNavigate();
  const [form, set] = useState({ name: "", mode: "chat" });
  const make = useDo(() => api.importApp(blankPromptApp(form.name, form.mode), true), ["apps"]);
  return (
    <Card title={t.newApp}>
      <form
        className="row"
        onSubmit={(event) => {
          event.preventDefault();
          void make.run().then((created) => {
            if (created)
              void navigate({ to: "/apps/$id", params: { id: created.id }, search: { tab: "setup" } as never });
          });
        }}
      >
        <Field label={t.name}>
          <input
            required
            maxLength={100}
            value={form.name}
            onChange={(event) => set({ ...form, name: event.target.value })}
          />
        </Field>
        <Pick
          label={t.kind}
          value={form.mode}
          onChange={(mode) => set({ ...form, mode })}
          options={[
            ["chat", t.modes.chat],
            ["agent-chat", t.modes["agent-chat"]],
            ["completion", t.modes.completion],
          ]}
        />
        <button type="submit" className="primary" disabled={make.isBusy}>
          {t.make}
        </button>
      </form>
    </Card>
  );
};

export const Workflows = () => {
  const { t } = useChosen();
  const navigate = useNavigate();
  const apps = useQuery({ queryKey: ["apps"], queryFn: api.apps });
  const [form, set] = useState({ name: "", mode: "workflow" });
  const make = useDo(() => api.importApp(blankWorkflow(form.name, form.mode as "workflow"), false), ["apps"]);
  const shown = (apps.data ?? []).filter((app) => hasCanvas(app.mode));
  return (
    <Page title={t.workflows} text={t.workflowsText}>
      <Trouble of={[apps]} />
      <Card title={t.newWorkflow}>
        <form
          className="row"
          onSubmit={(event) => {
            event.preventDefault();
            void make.run().then((created) => {
              if (created) void navigate({ to: "/workflows/$id", params: { id: created.id } });
            });
          }}
        >
          <Field label={t.name}>
            <input
              required
              maxLength={100}
              value={form.name}
              onChange={(event) => set({ ...form, name: event.target.value })}
            />
          </Field>
          <Pick
            label={t.kind}
            value={form.mode}
            onChange={(mode) => set({ ...form, mode })}
            options={[
              ["workflow", t.modes.workflow],
              ["advanced-chat", t.modes["advanced-chat"]],
            ]}
          />
          <button type="submit" className="primary" disabled={make.isBusy}>
            {t.draw}
          </button>
        </form>
      </Card>
      <Import />
      {apps.data && !shown.length && <Empty title={t.noWorkflows} />}
      <ul className="grid">
        {shown.map((app) => (
          <AppCard key={app.id} app={app} />
        ))}
      </ul>
    </Page>
  );
};

// Files dropped here are imported, each with what it needs and what may be missing.
const Import = () => {
  const { t } = useChosen();
  const errorText = useWrong();
  const client = useQueryClient();
  const [imports, setImports] = useState<{ file: string; app?: Shape<"ImportedAppView">; trouble?: string }[]>([]);
  const take = async (files: File[]) => {
    setImports([]);
    for (const file of files) {
      try {
        if (file.size > MAX_BYTES) throw new Error(filled(t.tooLarge, { max: "10 MB" }));
        const imported = await api.importApp(await file.text());
        setImports((all) => [...all, { file: file.name, app: imported }]);
      } catch (error) {
        setImports((all) => [...all, { file: file.name, trouble: errorText(error) }]);
      }
    }
    await client.invalidateQueries({ queryKey: ["apps"] });
  };
  return (
    <Card title={t.importTitle}>
      <Drop label={t.importText} accept=".yml,.yaml,.json" onFiles={(files) => void take(files)} />
      <div role="status">
        {imports.map((result) => (
          <div key={result.file}>
            <p className={result.trouble ? "wrong" : ""}>
              <strong>{result.file}</strong>: {result.trouble ?? t.imported}{" "}
              {result.app && (
                <Link to={hasCanvas(result.app.mode) ? "/workflows/$id" : "/apps/$id"} params={{ id: result.app.id }}>
                  {t.open}
                </Link>
              )}
            </p>
            {(result.app?.needs?.length ?? 0) > 0 && (
              <p className="soft">
                {t.needs} {result.app!.needs!.join(", ")}
              </p>
            )}
            {result.app?.warnings?.map((line) => (
              <p className="soft" key={line}>
                {line}
              </p>
            ))}
          </div>
        ))}
      </div>
    </Card>
  );
};

const AppCard = ({ app }: { app: Shape<"AppView"> }) => {
  const { t } = useChosen();
  const change = useDo((is: boolean) => api.setApp(app.id, { is_enabled: is }), ["apps"]);
  return (
    <li className="card">
      <h2>
        <Link to="/apps/$id" params={{ id: app.id }}>
          {app.name}
        </Link>
      </h2>
      <p className="soft small">{(t.modes as Record<string, string>)[app.mode] ?? app.mode}</p>
      {app.description && <p>{app.description}</p>}
      <p className="small">
        {app.is_published ? t.published : t.neverPublished}
        {app.has_draft ? ` · ${t.hasDraft}` : ""}
      </p>
      <div className="row tight">
        {hasCanvas(app.mode) && (
          <Link className="button" to="/workflows/$id" params={{ id: app.id }}>
            {t.canvas}
          </Link>
        )}
        {app.page.url && (
          <a className="button" href={app.page.url} target="_blank" rel="noopener">
            {t.openPage}
          </a>
        )}
        <Switch label={t.on} isOn={app.is_enabled} onChange={(is) => void change.run(is)} />
      </div>
    </li>
  );
};
