import { useQuery } from "@tanstack/react-query";
import { lazy, Suspense, useState } from "react";
import { parse, stringify } from "yaml";
import { api } from "../api";
import { useDo } from "../components/actions";
import { Field, Json, Pick, Status } from "../components/base";
import { Choose } from "../components/menu";
import { filled } from "../messages";
import { useChosen } from "../settings";
import {
  ConditionsField,
  getIn,
  JsonField,
  ModelField,
  nameOf,
  OutputsField,
  type Raw,
  SelectorField,
  setIn,
  TemplateField,
  type With,
} from "./controls";
import { FIELDS, type FieldSpec, MAY_FAIL } from "./fields";
import { type AppFile, type Data, handles, outputs, readable, type Variable } from "./file";
import { DatasourceField, EventField, StrategyField, ToolField } from "./parts";
import { ScheduleField, WebhookAddress } from "./triggers";

const Code = lazy(() => import("../components/code").then((it) => ({ default: it.Code })));
const One = ({
  spec,
  data,
  onChange,
  within,
}: {
  spec: FieldSpec;
  data: Raw;
  onChange: (data: Raw) => void;
  within: With;
}) => {
  const { t } = useChosen();
  const datasets = useQuery({ queryKey: ["datasets"], queryFn: api.datasets, enabled: spec.kind === "datasets" });
  if (spec.when && !spec.when(data)) return null;
  const label = (t.fields as Record<string, string>)[spec.label] ?? spec.label;
  const value = getIn(data, spec.path);
  const put = (next: unknown) => onChange(setIn(data, spec.path, next));
  switch (spec.kind) {
    case "text":
      return (
        <Field label={label}>
          <input value={String(value ?? "")} onChange={(event) => put(event.target.value)} />
        </Field>
      );
    case "area":
      return (
        <Field label={label}>
          <textarea
            className="mono"
            rows={5}
            value={String(value ?? "")}
            onChange={(event) => put(event.target.value)}
          />
        </Field>
      );
    case "template":
      return <TemplateField label={label} value={value} onChange={put} within={within} />;
    case "python":
      return (
        <div className="field">
          <span>{label}</span>
          <Suspense fallback={null}>
            <Code
              label={label}
              language={data.code_language === "python3" ? "python" : "text"}
              value={String(value ?? "")}
              onChange={put}
            />
          </Suspense>
        </div>
      );
    case "number":
      return (
        <Field label={label}>
          <input
            type="number"
            step="any"
            value={value === undefined || value === null ? "" : String(value)}
            onChange={(event) => put(event.target.value === "" ? null : Number(event.target.value))}
          />
        </Field>
      );
    case "switch":
      return (
        <label className="check">
          <input type="checkbox" checked={value === true} onChange={(event) => put(event.target.checked)} /> {label}
        </label>
      );
    case "select": {
      const options = spec.options ?? [];
      const said = String(value ?? options[0] ?? "");
      const known = options.find((one) => one.toLowerCase() === said.toLowerCase());
      return (
        <Pick
          label={label}
          value={known ?? said}
          onChange={put}
          options={(known === undefined ? [said, ...options] : options).map(
            (one) => [one, (t.choices as Record<string, string>)[one] ?? one] as const,
          )}
        />
      );
    }
    case "selector":
      return <SelectorField label={label} value={value} onChange={put} within={within} />;
    case "selectors": {
      const rows = (Array.isArray(value) ? value : []) as string[][];
      return (
        <fieldset>
          <legend>{label}</legend>
          {rows.map((one, at) => (
            <div className="row tight" key={at}>
              <SelectorField
                label={`${at + 1}`}
                value={one}
                onChange={(next) => put(rows.map((row, place) => (place === at ? next : row)))}
                within={within}
              />
              <button
                type="button"
                className="icon"
                aria-label={filled(t.removeNamed, { name: at + 1 })}
                onClick={() => put(rows.filter((_, place) => place !== at))}
              >
                ×
              </button>
            </div>
          ))}
          <button type="button" onClick={() => put([...rows, []])}>
            {t.add}
          </button>
        </fieldset>
      );
    }
    case "strings":
      return (
        <Field label={label} help={t.oneALine}>
          <textarea
            rows={3}
            value={((value ?? []) as string[]).join("\n")}
            onChange={(event) => put(event.target.value.split("\n"))}
          />
        </Field>
      );
    case "model":
      return <ModelField label={label} value={value} onChange={put} />;
    case "outputs":
      return <OutputsField label={label} value={value} onChange={put} />;
    case "conditions":
      return <ConditionsField label={label} value={value} onChange={put} within={within} />;
    case "json":
      return <JsonField label={label} value={value} onChange={put} />;
    case "tool":
      return <ToolField data={data as Data} onChange={onChange} within={within} />;
    case "strategy":
      return <StrategyField data={data as Data} onChange={onChange} within={within} />;
    case "datasource":
      return <DatasourceField data={data as Data} onChange={onChange} within={within} />;
    case "event":
      return <EventField data={data as Data} onChange={onChange} within={within} />;
    case "schedule":
      return <ScheduleField data={data as Data} times={within.times} onChange={onChange} />;
    case "address":
      return <WebhookAddress appId={within.appId} node={within.id} />;
    case "datasets": {
      const chosen = (value ?? []) as string[];
      return (
        <fieldset>
          <legend>{label}</legend>
          {(datasets.data ?? []).map((one) => (
            <label className="check" key={one.id}>
              <input
                type="checkbox"
                checked={chosen.includes(one.id) || chosen.includes(one.name)}
                onChange={(event) =>
                  put(
                    event.target.checked
                      ? [...chosen, one.id]
                      : chosen.filter((each) => each !== one.id && each !== one.name),
                  )
                }
              />{" "}
              {one.name}
            </label>
          ))}
          {datasets.data && !datasets.data.length && <p className="soft">{t.noDatasets}</p>}
        </fieldset>
      );
    }
    case "list": {
      const rows = (Array.isArray(value) ? value : []) as Raw[];
      const identified = (one: Raw): Raw =>
        "case_id" in one && !one.case_id
          ? { ...one, case_id: `case-${Date.now()}` }
          : "id" in one && !one.id
            ? { ...one, id: `${Date.now()}` }
            : one;
      return (
        <fieldset>
          <legend>{label}</legend>
          {rows.map((row, at) => (
            <div className="card tight" key={at}>
              {(spec.of ?? []).map((inner, place) => (
                <One
                  key={place}
                  spec={inner}
                  data={row}
                  onChange={(next) => put(rows.map((each, where) => (where === at ? next : each)))}
                  within={within}
                />
              ))}
              <div className="row tight">
                {at > 0 && (
                  <button
                    type="button"
                    onClick={() =>
                      put(rows.map((each, where) => (where === at - 1 ? row : where === at ? rows[at - 1]! : each)))
                    }
                  >
                    {t.moveUp}
                  </button>
                )}
                <button type="button" onClick={() => put(rows.filter((_, where) => where !== at))}>
                  {t.remove}
                </button>
              </div>
            </div>
          ))}
          <button type="button" onClick={() => put([...rows, identified({ ...spec.fresh })])}>
            {filled(t.addTo, { name: label })}
          </button>
        </fieldset>
      );
    }
  }
};

const Test = ({
  appId,
  text,
  id,
  variables,
  titles,
}: {
  appId: string;
  text: () => string;
  id: string;
  variables: Variable[];
  titles: Map<string, string>;
}) => {
  const { t, span } = useChosen();
  const [values, set] = useState<Record<string, string>>({});
  const source = text();
  const used = variables.filter(
    (one) => source.includes(one.selector.join(".")) || source.includes(`- ${one.selector[1]}`),
  );
  const go = useDo(() => api.testNode(appId, text(), id, values));
  return (
    <details>
      <summary>{t.testNode}</summary>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void go.run();
        }}
      >
        {used.slice(0, 12).map((one) => {
          const name = one.selector.join(".");
          return (
            <Field key={name} label={nameOf(one.selector, titles)}>
              <input value={values[name] ?? ""} onChange={(event) => set({ ...values, [name]: event.target.value })} />
            </Field>
          );
        })}
        <button type="submit" disabled={go.isBusy}>
          {t.run}
        </button>
        {go.data && (
          <>
            <p>
              <Status is={go.data.status} /> {span(go.data.ms / 1000)}
            </p>
            {go.data.error && (
              <p className="wrong" role="alert">
                {go.data.error}
              </p>
            )}
            <Json value={go.data.outputs} />
          </>
        )}
      </form>
    </details>
  );
};

interface Default {
  key: string;
  type?: string;
  value?: unknown;
}

// What is done where a node fails: tried again, another way taken, or gone on with values that stand in for its own.
const WhenItFails = ({ id, data, onChange }: { id: string; data: Data; onChange: (data: Data) => void }) => {
  const { t } = useChosen();
  const retry = (data.retry_config ?? {}) as { retry_enabled?: boolean; max_retries?: number; retry_interval?: number };
  const defaults = (Array.isArray(data.default_value) ? data.default_value : []) as Default[];
  const given = new Map(defaults.map((one) => [one.key, one]));
  const put = (more: typeof retry) =>
    onChange({
      ...data,
      retry_config: { retry_enabled: false, max_retries: 3, retry_interval: 1000, ...retry, ...more },
    });
  const own = outputs(id, data).map((one) => ({ name: one.selector.slice(1).join("."), kind: one.kind }));
  const stand = (name: string, kind: string, value: string) =>
    onChange({
      ...data,
      default_value: [...defaults.filter((one) => one.key !== name), { key: name, type: kind, value }],
    });
  return (
    <details>
      <summary>{t.whenItFails}</summary>
      <Pick
        label={t.whenItFails}
        value={String(data.error_strategy ?? "")}
        onChange={(error_strategy) => onChange({ ...data, error_strategy })}
        options={[
          ["", t.failRun],
          ["default-value", t.goOnWithDefault],
          ["fail-branch", t.goAnotherWay],
        ]}
      />
      {data.error_strategy === "default-value" &&
        own.map(({ name, kind }) => (
          <Field key={name} label={name} help={kind === "string" ? undefined : t.asJson}>
            <input
              value={(() => {
                const value = given.get(name)?.value;
                return value === undefined || value === null
                  ? ""
                  : typeof value === "string"
                    ? value
                    : JSON.stringify(value);
              })()}
              onChange={(event) => stand(name, kind, event.target.value)}
            />
          </Field>
        ))}
      <label className="check">
        <input
          type="checkbox"
          checked={retry.retry_enabled === true}
          onChange={(event) => put({ retry_enabled: event.target.checked })}
        />{" "}
        {t.retries}
      </label>
      {retry.retry_enabled && (
        <div className="row tight">
          <Field label={t.triesAtMost}>
            <input
              type="number"
              min={1}
              max={10}
              value={retry.max_retries ?? 3}
              onChange={(event) => put({ max_retries: Number(event.target.value) })}
            />
          </Field>
          <Field label={t.msBetween}>
            <input
              type="number"
              min={0}
              max={60000}
              step={100}
              value={retry.retry_interval ?? 1000}
              onChange={(event) => put({ retry_interval: Number(event.target.value) })}
            />
          </Field>
        </div>
      )}
    </details>
  );
};

export const Inspector = ({
  app,
  appId,
  id,
  problems,
  times,
  text,
  onChange,
  onConnect,
  onDisconnect,
  onRemove,
}: {
  app: AppFile;
  appId: string;
  id: string;
  problems: string[];
  times: number[];
  text: () => string;
  onChange: (data: Data) => void;
  onConnect: (handle: string, target: string) => void;
  onDisconnect: (edge: string) => void;
  onRemove: () => void;
}) => {
  const { t } = useChosen();
  const node = app.drawn.nodes.find((one) => one.id === id);
  const [yamlTrouble, setTrouble] = useState("");
  if (!node) return null;
  const data = node.data.node;
  const titles = new Map(app.drawn.nodes.map((one) => [one.id, one.data.node.title]));
  const variables = readable(id, app);
  const within: With = { app, id, variables, titles, appId, times };
  const others = app.drawn.nodes.filter(
    (one) => one.id !== id && one.type !== "note" && (one.parentId ?? "") === (node.parentId ?? ""),
  );
  return (
    <aside className="inspector" aria-label={filled(t.settingsOf, { name: data.title })}>
      <div className="form">
        <h2>{(t.nodeKinds as Record<string, string>)[data.type] ?? data.type}</h2>
        {problems.map((one) => (
          <p key={one} className="wrong">
            {one}
          </p>
        ))}
        <Field label={t.title}>
          <input value={data.title} onChange={(event) => onChange({ ...data, title: event.target.value })} />
        </Field>
        {(FIELDS[data.type] ?? []).map((spec, at) => (
          <One
            key={`${id} ${at}`}
            spec={spec}
            data={data}
            onChange={(next) => onChange(next as Data)}
            within={within}
          />
        ))}
        {MAY_FAIL.has(data.type) && <WhenItFails id={id} data={data} onChange={onChange} />}
        <fieldset>
          <legend>{t.goesOnTo}</legend>
          {handles(data).map((handle) => (
            <div key={handle.id}>
              {handle.label && <p className="soft">{handle.label}</p>}
              <ul className="plain">
                {app.drawn.edges
                  .filter((edge) => edge.source === id && edge.sourceHandle === handle.id)
                  .map((edge) => (
                    <li key={edge.id} className="row tight">
                      {titles.get(edge.target)}{" "}
                      <button
                        type="button"
                        className="icon"
                        aria-label={filled(t.disconnect, { name: titles.get(edge.target) ?? "" })}
                        onClick={() => onDisconnect(edge.id)}
                      >
                        ×
                      </button>
                    </li>
                  ))}
              </ul>
              <Choose
                label={t.connectTo}
                name={`${t.connectTo} ${handle.label}`.trim()}
                items={others.map((one) => [one.id, one.data.node.title] as const)}
                onChoose={(target) => onConnect(handle.id, target)}
              />
            </div>
          ))}
        </fieldset>
        <Test appId={appId} text={text} id={id} variables={variables} titles={titles} />
        <details>
          <summary>{t.allOfIt}</summary>
          <Suspense fallback={null}>
            <Code
              label={t.allOfIt}
              language="yaml"
              value={stringify(data)}
              onChange={(next) => {
                try {
                  const made = parse(next) as Data;
                  if (made && typeof made === "object" && made.type) {
                    setTrouble("");
                    if (stringify(made) !== stringify(data)) onChange(made);
                  }
                } catch (error) {
                  setTrouble((error as Error).message);
                }
              }}
            />
          </Suspense>
          {yamlTrouble && <p className="wrong">{yamlTrouble}</p>}
        </details>
        <button type="button" className="danger" onClick={onRemove}>
          {t.removeNode}
        </button>
      </div>
    </aside>
  );
};
