import { useQuery } from "@tanstack/react-query";
import { lazy, Suspense } from "react";
import { api } from "../api";
import { useDo } from "../components/actions";
import { PageTabs, Switch } from "../components/aria";
import { Card, Field, Page, Status, Trouble } from "../components/base";
import { Table } from "../components/table";
import { filled } from "../messages";
import { useChosen, useKept } from "../settings";
import { yamlDocument } from "../yaml";

const Code = lazy(() => import("../components/code").then((module) => ({ default: module.Code })));

export const Settings = () => {
  const { t } = useChosen();
  return (
    <Page title={t.settings}>
      <PageTabs
        label={t.settings}
        tabs={[
          { id: "health", title: t.health, body: () => <Health /> },
          { id: "form", title: t.asForm, body: () => <Configuration isForm /> },
          { id: "file", title: t.asFile, body: () => <Configuration /> },
          { id: "licences", title: t.licences, body: () => <Licences /> },
        ]}
      />
    </Page>
  );
};

const Health = () => {
  const { t, span } = useChosen();
  const about = useQuery({ queryKey: ["about"], queryFn: api.about, refetchInterval: 15_000 });
  const status = about.data;
  return (
    <Card title={t.health}>
      <Trouble of={[about]} />
      {status && (
        <dl className="list">
          <dt>{t.state}</dt>
          <dd>{status.problem ? <span className="wrong">{status.problem}</span> : <Status is="ready" />}</dd>
          <dt>{t.version}</dt>
          <dd>
            Modelyard {status.version} · Python {status.python}
          </dd>
          <dt>{t.runsFor}</dt>
          <dd>{span(status.uptime)}</dd>
          <dt>{t.database}</dt>
          <dd>{status.database}</dd>
          <dt>{t.workers}</dt>
          <dd>{status.workers}</dd>
          <dt>{t.sandbox}</dt>
          <dd>{(t.sandboxs as Record<string, string>)[status.sandbox] ?? status.sandbox}</dd>
          <dt>{t.recording}</dt>
          <dd>{status.records_bodies ? t.on : t.recordingOff}</dd>
          <dt>{t.mail}</dt>
          <dd>{status.mail_problem ?? t.mailReady}</dd>
        </dl>
      )}
      <p>
        <a href="/docs/admin" target="_blank" rel="noopener">
          {t.apiDocs}
        </a>
      </p>
    </Card>
  );
};

const Licences = () => {
  const { t } = useChosen();
  const about = useQuery({ queryKey: ["about"], queryFn: api.about });
  return (
    <Card title={t.licences}>
      <p className="soft">{t.licencesText}</p>
      <Table
        caption={t.licences}
        rows={about.data?.packages ?? []}
        id={(row) => row.name}
        columns={[
          { title: t.name, cell: (row) => row.name },
          { title: t.version, cell: (row) => row.version },
          { title: t.licence, cell: (row) => row.licence },
        ]}
      />
    </Card>
  );
};

interface JsonSchema {
  type?: string;
  enum?: unknown[];
  $ref?: string;
  anyOf?: JsonSchema[];
  allOf?: JsonSchema[];
  properties?: Record<string, JsonSchema>;
  default?: unknown;
  $defs?: Record<string, JsonSchema>;
  additionalProperties?: unknown;
}

const Configuration = ({ isForm = false }: { isForm?: boolean }) => {
  const { t } = useChosen();
  const settings = useQuery({ queryKey: ["settings"], queryFn: api.settings });
  const [text, setText] = useKept<string | null>("settings.text", null);
  // The version that the change began with: somebody else may store another one meanwhile.
  const [version, setVersion] = useKept("settings.version", 0);
  const change = (next: string) => {
    if (text === null) setVersion(settings.data?.version ?? 0);
    setText(next);
  };
  const save = useDo(
    async () => {
      const saved = await api.saveSettings(text ?? "", version);
      setText(null);
      return saved;
    },
    ["settings", "about", "providers", "catalogue"],
    t.settingsSaved,
  );
  const file = settings.data;
  const shown = text ?? file?.text ?? "";
  return (
    <Card
      title={isForm ? t.asForm : t.asFile}
      actions={
        <>
          {text !== null && (
            <button type="button" onClick={() => setText(null)}>
              {t.discard}
            </button>
          )}
          <button
            type="button"
            className="primary"
            disabled={text === null || save.isBusy || !!file?.fixed}
            onClick={() => void save.run()}
          >
            {t.save}
          </button>
        </>
      }
    >
      {file && (
        <p className="soft">
          {filled(t.settingsFile, { path: file.path })}{" "}
          {file.overridden.length > 0 && filled(t.overridden, { names: file.overridden.join(", ") })} {file.fixed}
        </p>
      )}
      <Trouble of={[settings]} />
      {save.error && (
        <pre className="wrong" role="alert">
          {save.error.message}
        </pre>
      )}
      {file &&
        (isForm ? (
          <AsForm schema={file.schema as JsonSchema} text={shown} onChange={change} />
        ) : (
          <Suspense fallback={<p className="soft">…</p>}>
            <Code
              label={t.asFile}
              language="yaml"
              value={shown}
              onChange={(next) => {
                if (next !== file.text || text !== null) change(next);
              }}
            />
          </Suspense>
        ))}
    </Card>
  );
};

// Each plain field of the settings; what is a list or a table of its own is edited in the file. Comments stay.
const AsForm = ({ schema, text, onChange }: { schema: JsonSchema; text: string; onChange: (text: string) => void }) => {
  const { t } = useChosen();
  const follow = (schemaPart: JsonSchema): JsonSchema =>
    schemaPart.$ref ? follow(schema.$defs?.[schemaPart.$ref.split("/").at(-1)!] ?? {}) : schemaPart;
  const whole = follow(schema);
  const document = yamlDocument(text || "{}");
  const put = (path: string[], value: unknown) => {
    const next = yamlDocument(text.trim() || "{}");
    if (next.contents && "flow" in next.contents) next.contents.flow = false;
    if (value === undefined) next.deleteIn(path);
    else next.setIn(path, value);
    onChange(next.toString());
  };
  const field = (path: string[], declared: JsonSchema) => {
    const resolved = follow(declared.allOf?.[0] ?? declared);
    const name = path.join(".");
    const value = document.getIn(path);
    const otherwise = declared.default ?? resolved.default;
    if (resolved.enum)
      return (
        <Field key={name} label={name}>
          <select value={String(value ?? "")} onChange={(event) => put(path, event.target.value || undefined)}>
            <option value="">{filled(t.otherwise, { value: String(otherwise ?? "") })}</option>
            {resolved.enum.map((choice) => (
              <option key={String(choice)}>{String(choice)}</option>
            ))}
          </select>
        </Field>
      );
    if (resolved.type === "boolean")
      return (
        <Switch
          key={name}
          label={name}
          isOn={(value ?? otherwise) === true}
          onChange={(is) => put(path, is === otherwise ? undefined : is)}
        />
      );
    if (resolved.type === "integer" || resolved.type === "number")
      return (
        <Field key={name} label={name}>
          <input
            type="number"
            step={resolved.type === "integer" ? 1 : "any"}
            value={value === undefined ? "" : Number(value)}
            placeholder={String(otherwise ?? "")}
            onChange={(event) => put(path, event.target.value === "" ? undefined : Number(event.target.value))}
          />
        </Field>
      );
    if (resolved.type === "string")
      return (
        <Field key={name} label={name}>
          <input
            value={value === undefined ? "" : String(value)}
            placeholder={String(otherwise ?? "")}
            onChange={(event) => put(path, event.target.value || undefined)}
          />
        </Field>
      );
    return null;
  };
  const parts = Object.entries(whole.properties ?? {});
  const isPart = (property: JsonSchema) => !!follow(property.allOf?.[0] ?? property).properties;
  return (
    <>
      <div className="fields">
        {parts.filter(([, property]) => !isPart(property)).map(([name, property]) => field([name], property))}
      </div>
      {parts
        .filter(([, property]) => isPart(property))
        .map(([name, property]) => (
          <details key={name} className="card">
            <summary>{name}</summary>
            <div className="fields">
              {Object.entries(follow(property.allOf?.[0] ?? property).properties ?? {}).map(([inner, innerSchema]) =>
                field([name, inner], innerSchema),
              )}
            </div>
          </details>
        ))}
    </>
  );
};
