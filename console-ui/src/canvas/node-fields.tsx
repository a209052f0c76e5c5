// One field of a node's form, by its kind.
import { useQuery } from "@tanstack/react-query";
import { lazy, type ReactNode, Suspense } from "react";
import { api } from "../api";
import { Field, Pick } from "../components/base";
import { moveUp, removeAt, replaceAt } from "../lists";
import { filled } from "../messages";
import { useChosen } from "../settings";
import { AgentField, OutputReferencesField, OutputsSchema, SoulModelField, SoulToolsField } from "./agent-form";
import {
  ConditionsField,
  type FieldOptions,
  getIn,
  JsonField,
  ModelField,
  type NodeContext,
  OutputsField,
  SelectorField,
  setIn,
  TemplateField,
  type Valued,
} from "./controls";
import { DeliveryField } from "./delivery-field";
import type { Kind } from "./fields";
import type { JsonObject, NodeData } from "./file";
import { CodeGenerator, PromptGenerator, SchemaGenerator } from "./generators";
import { DatasourceField, EventField, StrategyField, ToolField } from "./parts";
import { ScheduleField, WebhookAddress } from "./triggers";

const Code = lazy(() => import("../components/code").then((module) => ({ default: module.Code })));

// A field with its label and its value, which `put` replaces in the node's data.
interface ValueFieldOptions extends FieldOptions {
  label: string;
  value: unknown;
  put: (value: unknown) => void;
}

const TextField = ({ label, value, put }: ValueFieldOptions) => (
  <Field label={label}>
    <input value={String(value ?? "")} onChange={(event) => put(event.target.value)} />
  </Field>
);

const AreaField = ({ label, value, put }: ValueFieldOptions) => (
  <Field label={label}>
    <textarea className="mono" rows={5} value={String(value ?? "")} onChange={(event) => put(event.target.value)} />
  </Field>
);

const CodeField = ({ label, value, put, data }: ValueFieldOptions) => (
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

const NumberField = ({ label, value, put }: ValueFieldOptions) => (
  <Field label={label}>
    <input
      type="number"
      step="any"
      value={value === undefined || value === null ? "" : String(value)}
      onChange={(event) => put(event.target.value === "" ? null : Number(event.target.value))}
    />
  </Field>
);

const SwitchField = ({ label, value, put }: ValueFieldOptions) => (
  <label className="check">
    <input type="checkbox" checked={value === true} onChange={(event) => put(event.target.checked)} /> {label}
  </label>
);

// A value that is not among the options, as in a file from elsewhere, is offered as well.
const SelectField = ({ label, value, put, spec }: ValueFieldOptions) => {
  const { t } = useChosen();
  const options = spec.options ?? [];
  const text = String(value ?? options[0] ?? "");
  const option = options.find((candidate) => candidate.toLowerCase() === text.toLowerCase());
  const offered = option === undefined ? [text, ...options] : options;
  const choices = t.choices as Record<string, string>;
  return (
    <Pick
      label={label}
      value={option ?? text}
      onChange={put}
      options={offered.map((name) => [name, choices[name] ?? name] as const)}
    />
  );
};

const SelectorsField = ({ label, value, put, within }: ValueFieldOptions) => {
  const { t } = useChosen();
  const selectors = (Array.isArray(value) ? value : []) as string[][];
  return (
    <fieldset>
      <legend>{label}</legend>
      {selectors.map((selector, index) => (
        <div className="row tight" key={index}>
          <SelectorField
            label={`${index + 1}`}
            value={selector}
            onChange={(next) => put(replaceAt(selectors, index, next))}
            within={within}
          />
          <button
            type="button"
            className="icon"
            aria-label={filled(t.removeNamed, { name: index + 1 })}
            onClick={() => put(removeAt(selectors, index))}
          >
            ×
          </button>
        </div>
      ))}
      <button type="button" onClick={() => put([...selectors, []])}>
        {t.add}
      </button>
    </fieldset>
  );
};

const StringsField = ({ label, value, put }: ValueFieldOptions) => {
  const { t } = useChosen();
  return (
    <Field label={label} help={t.oneALine}>
      <textarea
        rows={3}
        value={((value ?? []) as string[]).join("\n")}
        onChange={(event) => put(event.target.value.split("\n"))}
      />
    </Field>
  );
};

// Files name a dataset by its id or by its name.
const DatasetsField = ({ label, value, put }: ValueFieldOptions) => {
  const { t } = useChosen();
  const datasets = useQuery({ queryKey: ["datasets"], queryFn: api.datasets });
  const selected = (value ?? []) as string[];
  return (
    <fieldset>
      <legend>{label}</legend>
      {(datasets.data ?? []).map(({ id, name }) => (
        <label className="check" key={id}>
          <input
            type="checkbox"
            checked={selected.includes(id) || selected.includes(name)}
            onChange={(event) =>
              put(
                event.target.checked
                  ? [...selected, id]
                  : selected.filter((reference) => reference !== id && reference !== name),
              )
            }
          />{" "}
          {name}
        </label>
      ))}
      {datasets.data && !datasets.data.length && <p className="soft">{t.noDatasets}</p>}
    </fieldset>
  );
};

// New rows get an id if their kind has one.
export const withNewId = (row: JsonObject): JsonObject => {
  if ("case_id" in row && !row.case_id) return { ...row, case_id: `case-${Date.now()}` };
  if ("id" in row && !row.id) return { ...row, id: `${Date.now()}` };
  return row;
};

const ListField = ({ label, value, put, spec, within }: ValueFieldOptions) => {
  const { t } = useChosen();
  const rows = (Array.isArray(value) ? value : []) as JsonObject[];
  return (
    <fieldset>
      <legend>{label}</legend>
      {rows.map((row, index) => (
        <div className="card tight" key={index}>
          {(spec.of ?? []).map((innerSpec, fieldIndex) => (
            <NodeField
              key={fieldIndex}
              spec={innerSpec}
              data={row}
              onChange={(next) => put(replaceAt(rows, index, next))}
              within={within}
            />
          ))}
          <div className="row tight">
            {index > 0 && (
              <button type="button" onClick={() => put(moveUp(rows, index))}>
                {t.moveUp}
              </button>
            )}
            <button type="button" onClick={() => put(removeAt(rows, index))}>
              {t.remove}
            </button>
          </div>
        </div>
      ))}
      <button type="button" onClick={() => put([...rows, withNewId({ ...spec.fresh })])}>
        {filled(t.addTo, { name: label })}
      </button>
    </fieldset>
  );
};

// Settings that few need, behind their name.
const GroupField = ({ label, spec, data, onChange, within }: ValueFieldOptions) => (
  <details>
    <summary>{label}</summary>
    <div className="form">
      {(spec.of ?? []).map((innerSpec, index) => (
        <NodeField key={index} spec={innerSpec} data={data} onChange={onChange} within={within} />
      ))}
    </div>
  </details>
);

type FieldComponent = (options: ValueFieldOptions) => ReactNode;

// For controls that know a label, a value, and the node, but nothing of specs.
const valued =
  <T,>(Control: (options: Valued<T> & { within: NodeContext }) => ReactNode): FieldComponent =>
  ({ label, value, put, within }) => <Control label={label} value={value} onChange={put} within={within} />;

// For controls that change several settings of the node at once.
const ofNode =
  (
    Control: (options: { data: NodeData; onChange: (data: NodeData) => void; within: NodeContext }) => ReactNode,
  ): FieldComponent =>
  ({ data, onChange, within }) => <Control data={data as NodeData} onChange={onChange} within={within} />;

const COMPONENTS: Record<Kind, FieldComponent> = {
  text: TextField,
  area: AreaField,
  template: valued(TemplateField),
  python: CodeField,
  number: NumberField,
  switch: SwitchField,
  select: SelectField,
  selector: valued(SelectorField),
  selectors: SelectorsField,
  list: ListField,
  model: valued(ModelField),
  strings: StringsField,
  outputs: valued(OutputsField),
  datasets: DatasetsField,
  tool: ofNode(ToolField),
  strategy: ofNode(StrategyField),
  datasource: ofNode(DatasourceField),
  event: ofNode(EventField),
  schedule: ofNode(({ data, onChange, within }) => (
    <ScheduleField data={data} times={within.times} onChange={onChange} />
  )),
  address: ofNode(({ within }) => <WebhookAddress appId={within.appId} node={within.id} />),
  json: valued(JsonField),
  conditions: valued(ConditionsField),
  group: GroupField,
  agent: ofNode((options) => <AgentField {...options} NodeField={NodeField} />),
  soulModel: valued(SoulModelField),
  soulTools: valued(SoulToolsField),
  outputReferences: valued(OutputReferencesField),
  outputsSchema: valued(OutputsSchema),
  delivery: valued(DeliveryField),
  promptGenerator: valued(PromptGenerator),
  codeGenerator: ofNode(CodeGenerator),
  schemaGenerator: valued(SchemaGenerator),
};

export const NodeField = ({ spec, data, onChange, within }: FieldOptions) => {
  const { t } = useChosen();
  if (spec.when && !spec.when(data)) return null;
  const Component = COMPONENTS[spec.kind];
  return (
    <Component
      spec={spec}
      data={data}
      onChange={onChange}
      within={within}
      label={(t.fields as Record<string, string>)[spec.label] ?? spec.label}
      value={getIn(data, spec.path) ?? spec.otherwise}
      put={(value) => onChange(setIn(data, spec.path, value))}
    />
  );
};
