// Nodes that name something a plugin, or the server, offers: a tool, a strategy, a data source, an event.
import { useQuery } from "@tanstack/react-query";
import { api, type Shape } from "../api";
import { Field, Pick, Trouble } from "../components/base";
import { Choose } from "../components/menu";
import { useTools } from "../components/tools";
import { filled } from "../messages";
import { useChosen } from "../settings";
import { JsonField, ModelField, type NodeContext, TemplateField, type Valued } from "./controls";
import type { JsonObject, NodeData } from "./file";

type Part = Shape<"ComponentView">;
type Parameter = Shape<"ComponentParameter">;
interface NodeField {
  data: NodeData;
  onChange: (data: NodeData) => void;
  within: NodeContext;
}

const useParts = () => useQuery({ queryKey: ["plugins", "parts"], queryFn: api.nodeParts, staleTime: 30_000 });

// Nodes hold a value with how it was given: as a constant, as a text with variables in it, or as one variable.
interface Setting {
  type?: string;
  value?: unknown;
}
const textOf = (setting: Setting | undefined): unknown =>
  setting?.type === "variable" && Array.isArray(setting.value) ? `{{#${setting.value.join(".")}#}}` : setting?.value;

export const ToolField = ({ data, onChange, within }: NodeField) => {
  const { t } = useChosen();
  const tools = useTools();
  const at = `${String(data.provider_id ?? "")} ${String(data.tool_name ?? "")}`;
  const known = tools.data?.find(
    (tool) =>
      tool.name === data.tool_name && (tool.provider === data.provider_id || tool.provider === data.provider_name),
  );
  const settings = (data.tool_parameters ?? {}) as Record<string, Setting>;
  return (
    <>
      <Pick
        label={t.fields.tool}
        value={known ? `${known.provider} ${known.name}` : at}
        onChange={(next) => {
          const chosenTool = tools.data?.find((offered) => `${offered.provider} ${offered.name}` === next);
          if (chosenTool)
            onChange({
              ...data,
              provider_id: chosenTool.provider,
              provider_name: chosenTool.provider,
              provider_type: chosenTool.kind === "plugin" ? "builtin" : chosenTool.kind,
              tool_name: chosenTool.name,
              tool_label: chosenTool.name,
              tool_parameters: {},
            });
        }}
        options={[
          ["", t.chooseTool],
          ...(at.trim() && !known ? [[at, at] as const] : []),
          ...(tools.data ?? []).map(
            (tool) => [`${tool.provider} ${tool.name}`, `${tool.provider} / ${tool.name}`] as const,
          ),
        ]}
      />
      {known && <p className="soft small">{known.description}</p>}
      {Object.keys(known?.schema.properties ?? {}).map((name) => (
        <TemplateField
          key={name}
          label={name}
          value={textOf(settings[name])}
          within={within}
          onChange={(value) =>
            onChange({ ...data, tool_parameters: { ...settings, [name]: { type: "mixed", value } } })
          }
        />
      ))}
    </>
  );
};

interface AgentTool {
  provider_name?: string;
  tool_name?: string;
  tool_label?: string;
}

// The tools that an agent may call.
const ToolsField = ({ label, value, onChange }: Valued) => {
  const { t } = useChosen();
  const tools = useTools();
  const chosen = (Array.isArray(value) ? value : []) as AgentTool[];
  const nameOf = (tool: AgentTool) => `${tool.provider_name ?? ""} / ${tool.tool_name ?? ""}`;
  return (
    <fieldset>
      <legend>{label}</legend>
      <ul className="plain">
        {chosen.map((tool) => (
          <li key={nameOf(tool)} className="row tight">
            {nameOf(tool)}
            <button
              type="button"
              className="icon"
              aria-label={filled(t.removeNamed, { name: nameOf(tool) })}
              onClick={() => onChange(chosen.filter((selected) => selected !== tool))}
            >
              ×
            </button>
          </li>
        ))}
      </ul>
      <Choose
        label={t.addTool}
        items={(tools.data ?? [])
          .filter(
            (tool) =>
              !chosen.some((selected) => selected.provider_name === tool.provider && selected.tool_name === tool.name),
          )
          .map((tool) => [`${tool.provider} ${tool.name}`, `${tool.provider} / ${tool.name}`] as const)}
        onChoose={(next) => {
          const chosenTool = tools.data?.find((offered) => `${offered.provider} ${offered.name}` === next);
          if (chosenTool)
            onChange([
              ...chosen,
              {
                enabled: true,
                type: chosenTool.kind === "plugin" ? "builtin" : chosenTool.kind,
                provider_name: chosenTool.provider,
                tool_name: chosenTool.name,
                tool_label: chosenTool.name,
                parameters: {},
                settings: {},
              },
            ]);
        }}
      />
    </fieldset>
  );
};

interface ParameterOptions {
  parameter: Parameter;
  setting: Setting | undefined;
  onChange: (setting: Setting) => void;
  within: NodeContext;
  // It cannot hold variables, since nothing ran before.
  isFixed?: boolean;
}

// One parameter by its type.
const ParameterField = (options: ParameterOptions) => {
  const { t, label } = useChosen();
  const { parameter, setting, onChange } = options;
  const value = setting?.value ?? parameter.default;
  const put = (next: unknown) => onChange({ type: "constant", value: next });
  const name = label(parameter.label);
  switch (parameter.type) {
    case "model-selector":
      return <ModelParameter label={name} value={value} onChange={put} />;
    case "array[tools]":
      return <ToolsField label={name} value={value} onChange={put} />;
    case "boolean":
      return (
        <label className="check">
          <input type="checkbox" checked={value === true} onChange={(event) => put(event.target.checked)} /> {name}
        </label>
      );
    case "number":
      return <NumberParameter parameter={parameter} value={value} onChange={put} />;
    case "select":
      return (
        <Pick
          label={name}
          value={String(value ?? "")}
          onChange={put}
          options={[
            ["", t.chooseOne],
            ...parameter.options.map((option) => [option.value, label(option.label)] as const),
          ]}
        />
      );
    case "object":
    case "array":
    case "app-selector":
    case "checkbox":
      return <JsonField label={name} value={value} onChange={put} />;
    default:
      return <TextParameter {...options} onChange={put} />;
  }
};

// A model's reference, which names the model otherwise here than in a node of its own.
const ModelParameter = ({ label, value, onChange }: Valued) => {
  const model = (value ?? {}) as { model?: string };
  return (
    <ModelField
      label={label}
      value={{ ...model, name: model.model }}
      onChange={(next) => {
        const { name, ...reference } = next as JsonObject;
        onChange({ ...reference, model: name, model_type: "llm" });
      }}
    />
  );
};

const NumberParameter = ({
  parameter,
  value,
  onChange,
}: {
  parameter: Parameter;
  value: unknown;
  onChange: (value: number | null) => void;
}) => {
  const { label } = useChosen();
  return (
    <Field label={label(parameter.label)} help={parameter.help ? label(parameter.help) : undefined}>
      <input
        type="number"
        step="any"
        required={parameter.required}
        {...(parameter.min === null ? {} : { min: parameter.min })}
        {...(parameter.max === null ? {} : { max: parameter.max })}
        value={value === undefined || value === null ? "" : String(value)}
        onChange={(event) => onChange(event.target.value === "" ? null : Number(event.target.value))}
      />
    </Field>
  );
};

const TextParameter = ({
  parameter,
  setting,
  onChange,
  within,
  isFixed = false,
}: Omit<ParameterOptions, "onChange"> & { onChange: (value: string) => void }) => {
  const { label } = useChosen();
  const name = label(parameter.label);
  if (!isFixed)
    return (
      <TemplateField label={name} value={textOf(setting) ?? parameter.default} within={within} onChange={onChange} />
    );
  return (
    <Field label={name} help={parameter.help ? label(parameter.help) : undefined}>
      <input
        type={parameter.type === "secret-input" ? "password" : "text"}
        autoComplete="off"
        required={parameter.required}
        value={String(setting?.value ?? parameter.default ?? "")}
        onChange={(event) => onChange(event.target.value)}
      />
    </Field>
  );
};

// All that a part takes, kept under one name of the node's data.
const ParameterFields = ({
  of,
  at,
  data,
  onChange,
  within,
  isFixed = false,
}: NodeField & { of: Part | undefined; at: string; isFixed?: boolean }) => {
  const settings = (data[at] ?? {}) as Record<string, Setting>;
  return (of?.parameters ?? []).map((parameter) => (
    <ParameterField
      key={parameter.name}
      parameter={parameter}
      setting={settings[parameter.name]}
      within={within}
      isFixed={isFixed}
      onChange={(next) => onChange({ ...data, [at]: { ...settings, [parameter.name]: next } })}
    />
  ));
};

const PartPick = ({
  label,
  parts,
  at,
  onChoose,
}: {
  label: string;
  parts: Part[];
  at: string;
  onChoose: (part: Part) => void;
}) => {
  const { t, label: labelText } = useChosen();
  const keyOf = (part: Part) => `${part.provider} ${part.name}`.trim();
  const isKnown = parts.some((part) => keyOf(part) === at);
  return (
    <Pick
      label={label}
      value={at}
      onChange={(next) => {
        const chosenPart = parts.find((candidate) => keyOf(candidate) === next);
        if (chosenPart) onChoose(chosenPart);
      }}
      options={[
        ["", t.chooseOne],
        ...(at && !isKnown ? [[at, `${at} (${t.notHere})`] as const] : []),
        ...parts.map(
          (part) => [keyOf(part), `${part.plugin ? `${part.plugin} / ` : ""}${labelText(part.label)}`] as const,
        ),
      ]}
    />
  );
};

// Whoever wrote a file may have named the provider by its last part alone.
const isOf = (part: Part, provider: string) =>
  part.provider === provider || (provider !== "" && `/${part.provider}`.endsWith(`/${provider}`));

export const StrategyField = ({ data, onChange, within }: NodeField) => {
  const { t } = useChosen();
  const parts = useParts();
  const provider = String(data.agent_strategy_provider_name ?? "");
  const name = String(data.agent_strategy_name ?? "");
  const known = parts.data?.strategies.find((strategy) => strategy.name === name && isOf(strategy, provider));
  // Apps name strategies of a plugin that is not here; ours of that name takes its place, and the same parameters.
  const ours = parts.data?.strategies.find((strategy) => !strategy.provider && strategy.name === name.toLowerCase());
  const settings = (data.agent_parameters ?? {}) as Record<string, Setting>;
  return (
    <>
      <Trouble of={[parts]} />
      <PartPick
        label={t.fields.strategy}
        parts={parts.data?.strategies ?? []}
        at={known ? `${known.provider} ${known.name}`.trim() : `${provider} ${name}`.trim()}
        onChoose={(strategy) =>
          onChange({
            ...data,
            agent_strategy_provider_name: strategy.provider,
            agent_strategy_name: strategy.name,
            agent_strategy_label: strategy.label.en_US,
          })
        }
      />
      <ParameterFields of={known ?? ours} at="agent_parameters" data={data} onChange={onChange} within={within} />
      {parts.data && !known && !ours && (
        <JsonField
          label={t.fields.parameters}
          value={settings}
          onChange={(next) => onChange({ ...data, agent_parameters: next })}
        />
      )}
    </>
  );
};

export const DatasourceField = ({ data, onChange, within }: NodeField) => {
  const { t } = useChosen();
  const parts = useParts();
  const plugin = String(data.plugin_id ?? "");
  const provider = String(data.provider_name ?? "");
  const name = String(data.datasource_name ?? "");
  const known = parts.data?.datasources.find(
    (datasource) => datasource.name === name && datasource.provider === `${plugin}/${provider.split("/").at(-1)}`,
  );
  return (
    <>
      <Trouble of={[parts]} />
      <Pick
        label={t.fields.type}
        value={String(data.provider_type ?? "local_file")}
        onChange={(next) => onChange({ ...data, provider_type: next })}
        options={(["local_file", "online_document", "website_crawl", "online_drive"] as const).map(
          (type) => [type, t.choices[type]] as const,
        )}
      />
      {data.provider_type !== "local_file" && (
        <>
          <PartPick
            label={t.fields.source}
            parts={(parts.data?.datasources ?? []).filter((datasource) => datasource.kind === data.provider_type)}
            at={known ? `${known.provider} ${known.name}` : `${plugin} ${name}`.trim()}
            onChoose={(datasource) =>
              onChange({
                ...data,
                plugin_id: datasource.plugin,
                provider_name: datasource.provider.split("/").at(-1),
                datasource_name: datasource.name,
                datasource_label: datasource.label.en_US,
                datasource_parameters: {},
              })
            }
          />
          <ParameterFields of={known} at="datasource_parameters" data={data} onChange={onChange} within={within} />
        </>
      )}
    </>
  );
};

export const EventField = ({ data, onChange, within }: NodeField) => {
  const { t } = useChosen();
  const parts = useParts();
  const subscriptions = useQuery({ queryKey: ["plugins", "subscriptions"], queryFn: api.subscriptions });
  const provider = String(data.provider_id ?? "");
  const name = String(data.event_name ?? "");
  const known = parts.data?.events.find((event) => event.name === name && isOf(event, provider));
  const mine = (subscriptions.data ?? []).filter((subscription) => subscription.provider === known?.provider);
  const at = String(data.subscription_id ?? "");
  return (
    <>
      <Trouble of={[parts, subscriptions]} />
      <PartPick
        label={t.fields.event}
        parts={parts.data?.events ?? []}
        at={known ? `${known.provider} ${known.name}` : `${provider} ${name}`.trim()}
        onChoose={(event) =>
          onChange({
            ...data,
            plugin_id: event.plugin,
            provider_id: event.provider,
            event_name: event.name,
            subscription_id: "",
            event_parameters: {},
            output_schema: event.output_schema,
          })
        }
      />
      {parts.data && !parts.data.events.length && <p className="soft small">{t.noTriggerPlugins}</p>}
      {known && (
        <Pick
          label={t.fields.subscription}
          value={at}
          onChange={(next) => onChange({ ...data, subscription_id: next })}
          options={[
            ["", t.everySubscription],
            ...(at && !mine.some((subscription) => subscription.id === at)
              ? [[at, `${at} (${t.notHere})`] as const]
              : []),
            ...mine.map((subscription) => [subscription.id, subscription.name] as const),
          ]}
        />
      )}
      {known && subscriptions.data && !mine.length && <p className="wrong small">{t.noSubscription}</p>}
      <ParameterFields of={known} at="event_parameters" data={data} onChange={onChange} within={within} isFixed />
    </>
  );
};
