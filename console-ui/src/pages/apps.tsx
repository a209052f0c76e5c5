import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api, type Shape } from "../api";
import { blankPromptApp, blankWorkflow } from "../canvas/templates";
import { useDo } from "../components/actions";
import { Card, Drop, Empty, Field, Loading, Page, Pick, Trouble, useWrong } from "../components/base";
import { filled } from "../messages";
import { useChosen, useKept } from "../settings";
import { AppCard } from "./app-card";
import { type App, hasCanvas, matchingApps, NO_FILTER } from "./app-list";
import { AppFilterBar, useAppTags } from "./app-tags";
import { Templates } from "./app-templates";

const MAX_BYTES = 10 << 20;

export const Apps = () => {
  const { t } = useChosen();
  const apps = useQuery({ queryKey: ["apps"], queryFn: api.apps });
  return (
    <Page title={t.apps} text={t.appsText}>
      <Trouble of={[apps]} />
      <New />
      <Templates />
      <Import />
      <Loading of={[apps]} />
      {apps.data && !apps.data.length && (
        <Empty title={t.noApps}>
          <p>{t.noAppsText}</p>
        </Empty>
      )}
      <AppList apps={apps.data ?? []} />
    </Page>
  );
};

// The filter is the same on both pages that list apps.
const AppList = ({ apps }: { apps: App[] }) => {
  const { t } = useChosen();
  const tags = useAppTags();
  const [filter, setFilter] = useKept("apps.filter", NO_FILTER);
  if (!apps.length) return null;
  const existingTags = (tags.data ?? []).map((tag) => tag.id);
  const shown = matchingApps(apps, filter, existingTags);
  return (
    <>
      <AppFilterBar
        filter={filter}
        onChange={setFilter}
        tags={tags.data ?? []}
        shownCount={shown.length}
        count={apps.length}
      />
      <Trouble of={[tags]} />
      {!shown.length && (
        <Empty title={t.nothingFound}>
          <button type="button" onClick={() => setFilter(NO_FILTER)}>
            {t.clearFilters}
          </button>
        </Empty>
      )}
      <ul className="grid">
        {shown.map((app) => (
          <AppCard key={app.id} app={app} />
        ))}
      </ul>
    </>
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
      <Templates />
      <Import />
      <Loading of={[apps]} />
      {apps.data && !shown.length && <Empty title={t.noWorkflows} />}
      <AppList apps={shown} />
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
