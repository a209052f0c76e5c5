import { useQuery } from "@tanstack/react-query";
import { lazy, Suspense, useRef, useState } from "react";
import { parse, stringify } from "yaml";
import { api } from "../api";
import { Field, Json, Pick, Status, useDo } from "../parts/base";
import { Choose } from "../parts/menu";
import { useModels } from "../parts/models";
import { useChosen } from "../settings";
import { filled } from "../words";
import { FIELDS, type FieldSpec, MAY_FAIL, OPERATORS, WITHOUT_VALUE } from "./fields";
import { type AppFile, type Data, handles, readable, type Variable } from "./file";

const Code = lazy(() => import("../parts/code").then((it) => ({ default: it.Code })));
type Raw = Record<string, unknown>;

const getIn = (value: unknown, path: string): unknown =>
  path ? path.split(".").reduce<unknown>((at, name) => (at as Raw | null | undefined)?.[name], value) : value;
const setIn = (value: Raw, path: string, next: unknown): Raw => {
  const [head, ...rest] = path.split(".");
  if (!head) return next as Raw;
  return { ...value, [head]: rest.length ? setIn((value[head] ?? {}) as Raw, rest.join("."), next) : next };
};

interface With {
  app: AppFile;
  id: string;
  variables: Variable[];
  titles: Map<string, string>;
}

const nameOf = (selector: unknown, titles: Map<string, string>) =>
  Array.isArray(selector) && selector.length > 1
    ? `${titles.get(String(selector[0])) ?? selector[0]}.${selector.slice(1).join(".")}`
    : "";

const SelectorField = ({
  label,
  value,
  onChange,
  within,
}: {
  label: string;
  value: unknown;
  onChange: (value: string[]) => void;
  within: With;
}) => {
  const { t } = useChosen();
  const key = Array.isArray(value) ? value.join(".") : "";
  const known = within.variables.map((one) => one.selector.join("."));
  return (
    <Field label={label}>
      <select
        value={key}
        onChange={(event) =>
          onChange(
            event.target.value
              ? [event.target.value.split(".")[0]!, event.target.value.split(".").slice(1).join(".")]
              : [],
          )
        }
      >
        <option value="">{t.chooseVariable}</option>
        {key && !known.includes(key) && <option value={key}>{nameOf(value, within.titles) || key}</option>}
        {within.variables.map((one) => (
          <option key={one.selector.join(".")} value={one.selector.join(".")}>
            {nameOf(one.selector, within.titles)} · {one.kind}
          </option>
        ))}
      </select>
    </Field>
  );
};

// A text with variables in it; one is put where the cursor stands.
const TemplateField = ({
  label,
  value,
  onChange,
  within,
}: {
  label: string;
  value: unknown;
  onChange: (value: string) => void;
  within: With;
}) => {
  const { t } = useChosen();
  const area = useRef<HTMLTextAreaElement>(null);
  const text = String(value ?? "");
  const put = (name: string) => {
    const at = area.current?.selectionStart ?? text.length;
    onChange(`${text.slice(0, at)}{{#${name}#}}${text.slice(area.current?.selectionEnd ?? at)}`);
    area.current?.focus();
  };
  return (
    <div className="template">
      <Field label={label}>
        <textarea ref={area} rows={3} value={text} onChange={(event) => onChange(event.target.value)} />
      </Field>
      <Choose
        label={t.insertVariable}
        name={`${t.insertVariable}: ${label}`}
        items={within.variables.map((one) => [one.selector.join("."), nameOf(one.selector, within.titles)] as const)}
        onChoose={put}
      />
    </div>
  );
};

const JsonField = ({
  label,
  value,
  onChange,
}: {
  label: string;
  value: unknown;
  onChange: (value: unknown) => void;
}) => {
  const { t } = useChosen();
  const [text, setText] = useState(() => JSON.stringify(value ?? {}, null, 2));
  const [isWrong, setWrong] = useState(false);
  return (
    <Field label={label} help={isWrong && <span className="wrong">{t.notJson}</span>}>
      <textarea
        className="mono"
        rows={5}
        spellCheck={false}
        value={text}
        onChange={(event) => {
          setText(event.target.value);
          try {
            onChange(JSON.parse(event.target.value));
            setWrong(false);
          } catch {
            setWrong(true);
          }
        }}
      />
    </Field>
  );
};

const ModelField = ({
  label,
  value,
  onChange,
}: {
  label: string;
  value: unknown;
  onChange: (value: unknown) => void;
}) => {
  const { t } = useChosen();
  const models = useModels("llm");
  const model = (value ?? {}) as { provider?: string; name?: string; mode?: string; completion_params?: Raw };
  const short = (model.provider ?? "").split("/").at(-1) ?? "";
  const at = short && !(model.name ?? "").includes("/") ? `${short}/${model.name ?? ""}` : (model.name ?? "");
  const names = (models.data ?? []).map((one) => one.id);
  return (
    <>
      <Pick
        label={label}
        value={at || "default"}
        options={[
          ["default", t.defaultModel],
          ...(at && at !== "default" && !names.includes(at) ? [[at, at] as const] : []),
          ...names.map((one) => [one, one] as const),
        ]}
        onChange={(next) => {
          const [provider, ...rest] = next.split("/");
          onChange(
            next === "default"
              ? { ...model, provider: "", name: "default", mode: "chat" }
              : { ...model, provider, name: rest.join("/"), mode: model.mode ?? "chat" },
          );
        }}
      />
      <Field label={t.fields.temperature}>
        <input
          type="number"
          min={0}
          max={2}
          step={0.1}
          value={String(model.completion_params?.temperature ?? "")}
          onChange={(event) => {
            const { temperature: _, ...rest } = model.completion_params ?? {};
            onChange({
              ...model,
              completion_params:
                event.target.value === "" ? rest : { ...rest, temperature: Number(event.target.value) },
            });
          }}
        />
      </Field>
    </>
  );
};

const OutputsField = ({
  label,
  value,
  onChange,
}: {
  label: string;
  value: unknown;
  onChange: (value: unknown) => void;
}) => {
  const { t } = useChosen();
  const rows = Object.entries((value ?? {}) as Record<string, { type?: string }>);
  const put = (next: [string, { type?: string }][]) => onChange(Object.fromEntries(next));
  return (
    <fieldset>
      <legend>{label}</legend>
      {rows.map(([name, one], at) => (
        <div className="row tight" key={at}>
          <Field label={t.fields.name}>
            <input
              className="short"
              value={name}
              onChange={(event) => put(rows.map((row, place) => (place === at ? [event.target.value, row[1]] : row)))}
            />
          </Field>
          <Pick
            label={t.fields.type}
            value={one.type ?? "string"}
            onChange={(type) => put(rows.map((row, place) => (place === at ? [row[0], { ...row[1], type }] : row)))}
            options={["string", "number", "boolean", "object", "array[string]", "array[number]", "array[object]"]}
          />
          <button
            type="button"
            className="icon"
            aria-label={filled(t.removeNamed, { name })}
            onClick={() => put(rows.filter((_, place) => place !== at))}
          >
            ×
          </button>
        </div>
      ))}
      <button type="button" onClick={() => put([...rows, [`result${rows.length + 1}`, { type: "string" }]])}>
        {t.add}
      </button>
    </fieldset>
  );
};

const ConditionsField = ({
  label,
  value,
  onChange,
  within,
}: {
  label: string;
  value: unknown;
  onChange: (value: unknown) => void;
  within: With;
}) => {
  const { t } = useChosen();
  const rows = (Array.isArray(value) ? value : []) as {
    id?: string;
    variable_selector?: string[];
    comparison_operator?: string;
    value?: unknown;
  }[];
  const put = (at: number, more: Raw) => onChange(rows.map((row, place) => (place === at ? { ...row, ...more } : row)));
  return (
    <fieldset>
      <legend>{label}</legend>
      {rows.map((one, at) => (
        <div key={one.id ?? at} className="card tight">
          <SelectorField
            label={t.fields.variable}
            value={one.variable_selector}
            onChange={(variable_selector) => put(at, { variable_selector })}
            within={within}
          />
          <Pick
            label={t.fields.operation}
            value={one.comparison_operator ?? "is"}
            onChange={(comparison_operator) => put(at, { comparison_operator })}
            options={OPERATORS}
          />
          {!WITHOUT_VALUE.has(one.comparison_operator ?? "is") && (
            <Field label={t.fields.value}>
              <input value={String(one.value ?? "")} onChange={(event) => put(at, { value: event.target.value })} />
            </Field>
          )}
          <button type="button" onClick={() => onChange(rows.filter((_, place) => place !== at))}>
            {t.remove}
          </button>
        </div>
      ))}
      <button
        type="button"
        onClick={() =>
          onChange([
            ...rows,
            { id: String(Date.now()), variable_selector: [], comparison_operator: "is", value: "", varType: "string" },
          ])
        }
      >
        {t.addCondition}
      </button>
    </fieldset>
  );
};

interface OfferedTool {
  name: string;
  provider: string;
  kind: string;
  description: string;
  schema: { properties?: Record<string, { description?: string }> };
}

const ToolField = ({ data, onChange, within }: { data: Data; onChange: (data: Data) => void; within: With }) => {
  const { t } = useChosen();
  const tools = useQuery({
    queryKey: ["tools"],
    queryFn: () => api.post<{ data: OfferedTool[] }>("/admin/tools").then((it) => it.data),
  });
  const at = `${String(data.provider_id ?? "")} ${String(data.tool_name ?? "")}`;
  const known = tools.data?.find(
    (one) => one.name === data.tool_name && (one.provider === data.provider_id || one.provider === data.provider_name),
  );
  const given = (data.tool_parameters ?? {}) as Record<string, { type?: string; value?: unknown }>;
  return (
    <>
      <Pick
        label={t.fields.tool}
        value={known ? `${known.provider} ${known.name}` : at}
        onChange={(next) => {
          const one = tools.data?.find((each) => `${each.provider} ${each.name}` === next);
          if (one)
            onChange({
              ...data,
              provider_id: one.provider,
              provider_name: one.provider,
              provider_type: one.kind === "plugin" ? "builtin" : one.kind,
              tool_name: one.name,
              tool_label: one.name,
              tool_parameters: {},
            });
        }}
        options={[
          ["", t.chooseTool],
          ...(at.trim() && !known ? [[at, at] as const] : []),
          ...(tools.data ?? []).map((one) => [`${one.provider} ${one.name}`, `${one.provider} / ${one.name}`] as const),
        ]}
      />
      {known && <p className="soft small">{known.description}</p>}
      {Object.keys(known?.schema.properties ?? {}).map((name) => (
        <TemplateField
          key={name}
          label={name}
          value={
            given[name]?.type === "variable" ? `{{#${(given[name].value as string[]).join(".")}#}}` : given[name]?.value
          }
          within={within}
          onChange={(value) => onChange({ ...data, tool_parameters: { ...given, [name]: { type: "mixed", value } } })}
        />
      ))}
    </>
  );
};

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
    case "select":
      return (
        <Pick
          label={label}
          value={String(value ?? spec.options?.[0] ?? "")}
          onChange={put}
          options={(spec.options ?? []).map((one) => [one, (t.choices as Record<string, string>)[one] ?? one] as const)}
        />
      );
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

export const Inspector = ({
  app,
  appId,
  id,
  problems,
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
  const within: With = { app, id, variables, titles };
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
        {MAY_FAIL.has(data.type) && (
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
            <label className="check">
              <input
                type="checkbox"
                checked={(data.retry_config as { retry_enabled?: boolean } | undefined)?.retry_enabled === true}
                onChange={(event) =>
                  onChange({
                    ...data,
                    retry_config: {
                      max_retries: 3,
                      retry_interval: 1000,
                      ...(data.retry_config as Raw | undefined),
                      retry_enabled: event.target.checked,
                    },
                  })
                }
              />{" "}
              {t.retries}
            </label>
          </details>
        )}
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
