// What forms of nodes are made of.
import { useRef, useState } from "react";
import { Field, Pick } from "../components/base";
import { Choose } from "../components/menu";
import { ModelRules, useModels } from "../components/models";
import { filled } from "../messages";
import { useChosen } from "../settings";
import { OPERATORS, WITHOUT_VALUE } from "./fields";
import type { AppFile, Variable } from "./file";

export type Raw = Record<string, unknown>;

export const getIn = (value: unknown, path: string): unknown =>
  path ? path.split(".").reduce<unknown>((at, name) => (at as Raw | null | undefined)?.[name], value) : value;
export const setIn = (value: Raw, path: string, next: unknown): Raw => {
  const [head, ...rest] = path.split(".");
  if (!head) return next as Raw;
  return { ...value, [head]: rest.length ? setIn((value[head] ?? {}) as Raw, rest.join("."), next) : next };
};

// A control of something that a file says, whatever that is.
export interface Valued<T = unknown> {
  label: string;
  value: unknown;
  onChange: (value: T) => void;
}
export interface With {
  app: AppFile;
  id: string;
  variables: Variable[];
  titles: Map<string, string>;
  appId: string;
  // When a schedule's time comes next, as the server reckons.
  times: number[];
}

export const nameOf = (selector: unknown, titles: Map<string, string>) =>
  Array.isArray(selector) && selector.length > 1
    ? `${titles.get(String(selector[0])) ?? selector[0]}.${selector.slice(1).join(".")}`
    : "";

export const SelectorField = ({ label, value, onChange, within }: Valued<string[]> & { within: With }) => {
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
export const TemplateField = ({ label, value, onChange, within }: Valued<string> & { within: With }) => {
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

export const JsonField = ({ label, value, onChange }: Valued) => {
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

export const ModelField = ({ label, value, onChange }: Valued) => {
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
      <details>
        <summary>{t.fields.parameters}</summary>
        <ModelRules
          models={[at || "default"]}
          values={model.completion_params ?? {}}
          onChange={(completion_params) => onChange({ ...model, completion_params })}
        />
      </details>
    </>
  );
};

export const OutputsField = ({ label, value, onChange }: Valued) => {
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

export const ConditionsField = ({ label, value, onChange, within }: Valued & { within: With }) => {
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
