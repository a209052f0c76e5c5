// The controls that the forms of nodes are made of.
import { useRef, useState } from "react";
import { Field, Pick } from "../components/base";
import { Choose } from "../components/menu";
import { ModelRules, useModels } from "../components/models";
import { removeAt, replaceAt } from "../lists";
import { filled } from "../messages";
import { useChosen } from "../settings";
import { type FieldSpec, OPERATORS, VALUE_TYPES, WITHOUT_VALUE } from "./fields";
import type { AppFile, JsonObject } from "./file";
import type { Variable } from "./variables";

export const getIn = (value: unknown, path: string): unknown =>
  path
    ? path.split(".").reduce<unknown>((inner, name) => (inner as JsonObject | null | undefined)?.[name], value)
    : value;
// A copy with another value at the path; objects on the way are created if they are missing.
export const setIn = (value: JsonObject, path: string, next: unknown): JsonObject => {
  const [name, ...subpath] = path.split(".");
  if (!name) return next as JsonObject;
  return {
    ...value,
    [name]: subpath.length ? setIn((value[name] ?? {}) as JsonObject, subpath.join("."), next) : next,
  };
};

// A control of a value in the file, whatever type that has.
export interface Valued<T = unknown> {
  label: string;
  value: unknown;
  onChange: (value: T) => void;
}
// The node that a form belongs to.
export interface NodeContext {
  app: AppFile;
  id: string;
  variables: Variable[];
  titles: Map<string, string>;
  appId: string;
  // When a schedule starts next, as the server calculates.
  times: number[];
  // For what a node refers to and the file has elsewhere, such as its agents.
  changeDocument: (document: JsonObject) => void;
}
// One field of a form, and the object that it belongs to.
export interface FieldOptions {
  spec: FieldSpec;
  data: JsonObject;
  onChange: (data: JsonObject) => void;
  within: NodeContext;
}

export const nameOf = (selector: unknown, titles: Map<string, string>) =>
  Array.isArray(selector) && selector.length > 1
    ? `${titles.get(String(selector[0])) ?? selector[0]}.${selector.slice(1).join(".")}`
    : "";

// A selector has the node's id and the variable's name, which may have dots.
const selectorOf = (key: string): string[] => {
  if (!key) return [];
  const [nodeId, ...name] = key.split(".");
  return [nodeId!, name.join(".")];
};

export const SelectorField = ({ label, value, onChange, within }: Valued<string[]> & { within: NodeContext }) => {
  const { t } = useChosen();
  const key = Array.isArray(value) ? value.join(".") : "";
  const isReadable = within.variables.some((variable) => variable.selector.join(".") === key);
  return (
    <Field label={label}>
      <select value={key} onChange={(event) => onChange(selectorOf(event.target.value))}>
        <option value="">{t.chooseVariable}</option>
        {key && !isReadable && <option value={key}>{nameOf(value, within.titles) || key}</option>}
        {within.variables.map((variable) => (
          <option key={variable.selector.join(".")} value={variable.selector.join(".")}>
            {nameOf(variable.selector, within.titles)} · {variable.kind}
          </option>
        ))}
      </select>
    </Field>
  );
};

// A text with variables in it. A variable is inserted at the cursor.
export const TemplateField = ({ label, value, onChange, within }: Valued<string> & { within: NodeContext }) => {
  const { t } = useChosen();
  const area = useRef<HTMLTextAreaElement>(null);
  const text = String(value ?? "");
  const insert = (name: string) => {
    const start = area.current?.selectionStart ?? text.length;
    onChange(`${text.slice(0, start)}{{#${name}#}}${text.slice(area.current?.selectionEnd ?? start)}`);
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
        items={within.variables.map(({ selector }) => [selector.join("."), nameOf(selector, within.titles)] as const)}
        onChoose={insert}
      />
    </div>
  );
};

export const JsonField = ({ label, value, onChange }: Valued) => {
  const { t } = useChosen();
  const [text, setText] = useState(() => JSON.stringify(value ?? {}, null, 2));
  const [isInvalid, setInvalid] = useState(false);
  // What was typed stays as it is until the value becomes another one, as by an undo. They are compared as text: a value
  // that the file does not have is a new object each time.
  const current = JSON.stringify(value ?? {});
  const [typed, setTyped] = useState(current);
  if (typed !== current) {
    setTyped(current);
    setText(JSON.stringify(value ?? {}, null, 2));
    setInvalid(false);
  }
  return (
    <Field label={label} help={isInvalid && <span className="wrong">{t.notJson}</span>}>
      <textarea
        className="mono"
        rows={5}
        spellCheck={false}
        value={text}
        onChange={(event) => {
          setText(event.target.value);
          try {
            const parsed = JSON.parse(event.target.value) as unknown;
            setTyped(JSON.stringify(parsed ?? {}));
            onChange(parsed);
            setInvalid(false);
          } catch {
            setInvalid(true);
          }
        }}
      />
    </Field>
  );
};

interface ModelReference {
  provider?: string;
  name?: string;
  mode?: string;
  completion_params?: JsonObject;
}

// Files name a provider by a path, of which the last part is the name that models have here.
export const modelId = (model: ModelReference): string => {
  const name = model.name ?? "";
  const providerName = (model.provider ?? "").split("/").at(-1) ?? "";
  return providerName && !name.includes("/") ? `${providerName}/${name}` : name;
};

const withModel = (model: ModelReference, id: string): ModelReference => {
  if (id === "default") return { ...model, provider: "", name: "default", mode: "chat" };
  const [provider, ...name] = id.split("/");
  return { ...model, provider: provider!, name: name.join("/"), mode: model.mode ?? "chat" };
};

export const ModelField = ({ label, value, onChange }: Valued) => {
  const { t } = useChosen();
  const models = useModels("llm");
  const model = (value ?? {}) as ModelReference;
  const id = modelId(model);
  const modelIds = (models.data ?? []).map((offered) => offered.id);
  const isOther = id && id !== "default" && !modelIds.includes(id);
  return (
    <>
      <Pick
        label={label}
        value={id || "default"}
        options={[["default", t.defaultModel], ...(isOther ? [id] : []), ...modelIds]}
        onChange={(next) => onChange(withModel(model, next))}
      />
      <details>
        <summary>{t.fields.parameters}</summary>
        <ModelRules
          models={[id || "default"]}
          values={model.completion_params ?? {}}
          onChange={(completion_params) => onChange({ ...model, completion_params })}
        />
      </details>
    </>
  );
};

type Output = [name: string, schema: { type?: string }];

export const OutputsField = ({ label, value, onChange }: Valued) => {
  const { t } = useChosen();
  const outputs: Output[] = Object.entries((value ?? {}) as Record<string, { type?: string }>);
  const put = (next: Output[]) => onChange(Object.fromEntries(next));
  return (
    <fieldset>
      <legend>{label}</legend>
      {outputs.map(([name, schema], index) => (
        <div className="row tight" key={index}>
          <Field label={t.fields.name}>
            <input
              className="short"
              value={name}
              onChange={(event) => put(replaceAt(outputs, index, [event.target.value, schema]))}
            />
          </Field>
          <Pick
            label={t.fields.type}
            value={schema.type ?? "string"}
            onChange={(type) => put(replaceAt(outputs, index, [name, { ...schema, type }]))}
            options={VALUE_TYPES}
          />
          <button
            type="button"
            className="icon"
            aria-label={filled(t.removeNamed, { name })}
            onClick={() => put(removeAt(outputs, index))}
          >
            ×
          </button>
        </div>
      ))}
      <button type="button" onClick={() => put([...outputs, [`result${outputs.length + 1}`, { type: "string" }]])}>
        {t.add}
      </button>
    </fieldset>
  );
};

interface Condition {
  id?: string;
  variable_selector?: string[];
  comparison_operator?: string;
  value?: unknown;
}

const newCondition = () => ({
  id: String(Date.now()),
  variable_selector: [],
  comparison_operator: "is",
  value: "",
  varType: "string",
});

export const ConditionsField = ({ label, value, onChange, within }: Valued & { within: NodeContext }) => {
  const { t } = useChosen();
  const conditions = (Array.isArray(value) ? value : []) as Condition[];
  return (
    <fieldset>
      <legend>{label}</legend>
      {conditions.map((condition, index) => (
        <ConditionForm
          key={condition.id ?? index}
          condition={condition}
          onChange={(change) => onChange(replaceAt(conditions, index, { ...condition, ...change }))}
          onRemove={() => onChange(removeAt(conditions, index))}
          within={within}
        />
      ))}
      <button type="button" onClick={() => onChange([...conditions, newCondition()])}>
        {t.addCondition}
      </button>
    </fieldset>
  );
};

const ConditionForm = ({
  condition,
  onChange,
  onRemove,
  within,
}: {
  condition: Condition;
  onChange: (change: Condition) => void;
  onRemove: () => void;
  within: NodeContext;
}) => {
  const { t } = useChosen();
  const operator = condition.comparison_operator ?? "is";
  return (
    <div className="card tight">
      <SelectorField
        label={t.fields.variable}
        value={condition.variable_selector}
        onChange={(variable_selector) => onChange({ variable_selector })}
        within={within}
      />
      <Pick
        label={t.fields.operation}
        value={operator}
        onChange={(comparison_operator) => onChange({ comparison_operator })}
        options={OPERATORS}
      />
      {!WITHOUT_VALUE.has(operator) && (
        <Field label={t.fields.value}>
          <input value={String(condition.value ?? "")} onChange={(event) => onChange({ value: event.target.value })} />
        </Field>
      )}
      <button type="button" onClick={onRemove}>
        {t.remove}
      </button>
    </div>
  );
};
