import { useQuery } from "@tanstack/react-query";
import { lazy, Suspense } from "react";
import { parseDocument } from "yaml";
import { api } from "../api";
import { useDo } from "../components/actions";
import { PageTabs, Switch } from "../components/aria";
import { Card, Field, Page, Status, Trouble } from "../components/base";
import { Table } from "../components/table";
import { filled } from "../messages";
import { useChosen, useKept } from "../settings";

const Code = lazy(() => import("../components/code").then((it) => ({ default: it.Code })));

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
  const it = about.data;
  return (
    <Card title={t.health}>
      <Trouble of={[about]} />
      {it && (
        <dl className="list">
          <dt>{t.state}</dt>
          <dd>{it.problem ? <span className="wrong">{it.problem}</span> : <Status is="ready" />}</dd>
          <dt>{t.version}</dt>
          <dd>
            Modelyard {it.version} · Python {it.python}
          </dd>
          <dt>{t.runsFor}</dt>
          <dd>{span(it.uptime)}</dd>
          <dt>{t.database}</dt>
          <dd>{it.database}</dd>
          <dt>{t.workers}</dt>
          <dd>{it.workers}</dd>
          <dt>{t.sandbox}</dt>
          <dd>{(t.sandboxs as Record<string, string>)[it.sandbox] ?? it.sandbox}</dd>
          <dt>{t.recording}</dt>
          <dd>{it.records_bodies ? t.on : t.recordingOff}</dd>
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
        id={(one) => one.name}
        columns={[
          { title: t.name, cell: (one) => one.name },
          { title: t.version, cell: (one) => one.version },
          { title: t.licence, cell: (one) => one.licence },
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
  const save = useDo(
    async () => {
      const made = await api.saveSettings(text ?? "");
      setText(null);
      return made;
    },
    ["settings", "about", "providers", "catalogue"],
    t.settingsSaved,
  );
  const it = settings.data;
  const shown = text ?? it?.text ?? "";
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
            disabled={text === null || save.isBusy}
            onClick={() => void save.run()}
          >
            {t.save}
          </button>
        </>
      }
    >
      {it && (
        <p className="soft">
          {filled(t.settingsFile, { path: it.path })}{" "}
          {it.overridden.length > 0 && filled(t.overridden, { names: it.overridden.join(", ") })}
        </p>
      )}
      <Trouble of={[settings]} />
      {save.error && (
        <pre className="wrong" role="alert">
          {save.error.message}
        </pre>
      )}
      {it &&
        (isForm ? (
          <AsForm schema={it.schema as JsonSchema} text={shown} onChange={setText} />
        ) : (
          <Suspense fallback={<p className="soft">…</p>}>
            <Code
              label={t.asFile}
              language="yaml"
              value={shown}
              onChange={(next) => {
                if (next !== it.text || text !== null) setText(next);
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
  const follow = (one: JsonSchema): JsonSchema =>
    one.$ref ? follow(schema.$defs?.[one.$ref.split("/").at(-1)!] ?? {}) : one;
  const whole = follow(schema);
  const document = parseDocument(text || "{}");
  const put = (path: string[], value: unknown) => {
    const next = parseDocument(text.trim() || "{}");
    if (next.contents && "flow" in next.contents) next.contents.flow = false;
    if (value === undefined) next.deleteIn(path);
    else next.setIn(path, value);
    onChange(next.toString());
  };
  const field = (path: string[], given: JsonSchema) => {
    const one = follow(given.allOf?.[0] ?? given);
    const name = path.join(".");
    const value = document.getIn(path);
    const otherwise = given.default ?? one.default;
    if (one.enum)
      return (
        <Field key={name} label={name}>
          <select value={String(value ?? "")} onChange={(event) => put(path, event.target.value || undefined)}>
            <option value="">{filled(t.otherwise, { value: String(otherwise ?? "") })}</option>
            {one.enum.map((each) => (
              <option key={String(each)}>{String(each)}</option>
            ))}
          </select>
        </Field>
      );
    if (one.type === "boolean")
      return (
        <Switch
          key={name}
          label={name}
          isOn={(value ?? otherwise) === true}
          onChange={(is) => put(path, is === otherwise ? undefined : is)}
        />
      );
    if (one.type === "integer" || one.type === "number")
      return (
        <Field key={name} label={name}>
          <input
            type="number"
            step={one.type === "integer" ? 1 : "any"}
            value={value === undefined ? "" : Number(value)}
            placeholder={String(otherwise ?? "")}
            onChange={(event) => put(path, event.target.value === "" ? undefined : Number(event.target.value))}
          />
        </Field>
      );
    if (one.type === "string")
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
  const isPart = (one: JsonSchema) => !!follow(one.allOf?.[0] ?? one).properties;
  return (
    <>
      <div className="fields">{parts.filter(([, one]) => !isPart(one)).map(([name, one]) => field([name], one))}</div>
      {parts
        .filter(([, one]) => isPart(one))
        .map(([name, one]) => (
          <details key={name} className="card">
            <summary>{name}</summary>
            <div className="fields">
              {Object.entries(follow(one.allOf?.[0] ?? one).properties ?? {}).map(([inner, each]) =>
                field([name, inner], each),
              )}
            </div>
          </details>
        ))}
    </>
  );
};
