// Nodes that name something a plugin, or the server, offers: a tool, a strategy, a data source, an event.
import { useQuery } from "@tanstack/react-query";
import { api, type Shape } from "../api";
import { Field, Pick, Trouble } from "../components/base";
import { Choose } from "../components/menu";
import { useTools } from "../components/tools";
import { filled } from "../messages";
import { useChosen } from "../settings";
import { JsonField, ModelField, type Raw, TemplateField, type Valued, type With } from "./controls";
import type { Data } from "./file";

type Part = Shape<"ComponentView">;
type Parameter = Shape<"ComponentParameter">;
interface NodeField {
  data: Data;
  onChange: (data: Data) => void;
  within: With;
}

const useParts = () => useQuery({ queryKey: ["plugins", "parts"], queryFn: api.nodeParts, staleTime: 30_000 });

// Nodes hold a value with how it was given: as a constant, as a text with variables in it, or as one variable.
interface Given {
  type?: string;
  value?: unknown;
}
const textOf = (given: Given | undefined): unknown =>
  given?.type === "variable" && Array.isArray(given.value) ? `{{#${given.value.join(".")}#}}` : given?.value;

export const ToolField = ({ data, onChange, within }: NodeField) => {
  const { t } = useChosen();
  const tools = useTools();
  const at = `${String(data.provider_id ?? "")} ${String(data.tool_name ?? "")}`;
  const known = tools.data?.find(
    (one) => one.name === data.tool_name && (one.provider === data.provider_id || one.provider === data.provider_name),
  );
  const given = (data.tool_parameters ?? {}) as Record<string, Given>;
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
          value={textOf(given[name])}
          within={within}
          onChange={(value) => onChange({ ...data, tool_parameters: { ...given, [name]: { type: "mixed", value } } })}
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
  const nameOf = (one: AgentTool) => `${one.provider_name ?? ""} / ${one.tool_name ?? ""}`;
  return (
    <fieldset>
      <legend>{label}</legend>
      <ul className="plain">
        {chosen.map((one) => (
          <li key={nameOf(one)} className="row tight">
            {nameOf(one)}
            <button
              type="button"
              className="icon"
              aria-label={filled(t.removeNamed, { name: nameOf(one) })}
              onClick={() => onChange(chosen.filter((each) => each !== one))}
            >
              ×
            </button>
          </li>
        ))}
      </ul>
      <Choose
        label={t.addTool}
        items={(tools.data ?? [])
          .filter((one) => !chosen.some((each) => each.provider_name === one.provider && each.tool_name === one.name))
          .map((one) => [`${one.provider} ${one.name}`, `${one.provider} / ${one.name}`] as const)}
        onChoose={(next) => {
          const one = tools.data?.find((each) => `${each.provider} ${each.name}` === next);
          if (one)
            onChange([
              ...chosen,
              {
                enabled: true,
                type: one.kind === "plugin" ? "builtin" : one.kind,
                provider_name: one.provider,
                tool_name: one.name,
                tool_label: one.name,
                parameters: {},
                settings: {},
              },
            ]);
        }}
      />
    </fieldset>
  );
};

// One parameter by its type. `isFixed`: it cannot hold variables, since nothing ran before.
const ParameterField = ({
  one,
  given,
  onChange,
  within,
  isFixed = false,
}: {
  one: Parameter;
  given: Given | undefined;
  onChange: (given: Given) => void;
  within: With;
  isFixed?: boolean;
}) => {
  const { t, label } = useChosen();
  const value = given?.value ?? one.default;
  const put = (next: unknown) => onChange({ type: "constant", value: next });
  const name = label(one.label);
  switch (one.type) {
    case "model-selector": {
      const model = (value ?? {}) as { model?: string };
      return (
        <ModelField
          label={name}
          value={{ ...model, name: model.model }}
          onChange={(next) => {
            const { name: chosen, ...rest } = next as Raw;
            put({ ...rest, model: chosen, model_type: "llm" });
          }}
        />
      );
    }
    case "array[tools]":
      return <ToolsField label={name} value={value} onChange={put} />;
    case "boolean":
      return (
        <label className="check">
          <input type="checkbox" checked={value === true} onChange={(event) => put(event.target.checked)} /> {name}
        </label>
      );
    case "number":
      return (
        <Field label={name} help={one.help ? label(one.help) : undefined}>
          <input
            type="number"
            step="any"
            required={one.required}
            {...(one.min === null ? {} : { min: one.min })}
            {...(one.max === null ? {} : { max: one.max })}
            value={value === undefined || value === null ? "" : String(value)}
            onChange={(event) => put(event.target.value === "" ? null : Number(event.target.value))}
          />
        </Field>
      );
    case "select":
      return (
        <Pick
          label={name}
          value={String(value ?? "")}
          onChange={put}
          options={[["", t.chooseOne], ...one.options.map((each) => [each.value, label(each.label)] as const)]}
        />
      );
    case "object":
    case "array":
    case "app-selector":
    case "checkbox":
      return <JsonField label={name} value={value} onChange={put} />;
    default:
      return isFixed ? (
        <Field label={name} help={one.help ? label(one.help) : undefined}>
          <input
            type={one.type === "secret-input" ? "password" : "text"}
            autoComplete="off"
            required={one.required}
            value={String(value ?? "")}
            onChange={(event) => put(event.target.value)}
          />
        </Field>
      ) : (
        <TemplateField
          label={name}
          value={textOf(given) ?? one.default}
          within={within}
          onChange={(text) => onChange({ type: "constant", value: text })}
        />
      );
  }
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
  const given = (data[at] ?? {}) as Record<string, Given>;
  return (of?.parameters ?? []).map((one) => (
    <ParameterField
      key={one.name}
      one={one}
      given={given[one.name]}
      within={within}
      isFixed={isFixed}
      onChange={(next) => onChange({ ...data, [at]: { ...given, [one.name]: next } })}
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
  const { t, label: said } = useChosen();
  const keyOf = (one: Part) => `${one.provider} ${one.name}`.trim();
  const isKnown = parts.some((one) => keyOf(one) === at);
  return (
    <Pick
      label={label}
      value={at}
      onChange={(next) => {
        const one = parts.find((each) => keyOf(each) === next);
        if (one) onChoose(one);
      }}
      options={[
        ["", t.chooseOne],
        ...(at && !isKnown ? [[at, `${at} (${t.notHere})`] as const] : []),
        ...parts.map((one) => [keyOf(one), `${one.plugin ? `${one.plugin} / ` : ""}${said(one.label)}`] as const),
      ]}
    />
  );
};

// Whoever wrote a file may have named the provider by its last part alone.
const isOf = (one: Part, provider: string) =>
  one.provider === provider || (provider !== "" && `/${one.provider}`.endsWith(`/${provider}`));

export const StrategyField = ({ data, onChange, within }: NodeField) => {
  const { t } = useChosen();
  const parts = useParts();
  const provider = String(data.agent_strategy_provider_name ?? "");
  const name = String(data.agent_strategy_name ?? "");
  const known = parts.data?.strategies.find((one) => one.name === name && isOf(one, provider));
  // Apps name strategies of a plugin that is not here; ours of that name takes its place, and the same parameters.
  const ours = parts.data?.strategies.find((one) => !one.provider && one.name === name.toLowerCase());
  const given = (data.agent_parameters ?? {}) as Record<string, Given>;
  return (
    <>
      <Trouble of={[parts]} />
      <PartPick
        label={t.fields.strategy}
        parts={parts.data?.strategies ?? []}
        at={known ? `${known.provider} ${known.name}`.trim() : `${provider} ${name}`.trim()}
        onChoose={(one) =>
          onChange({
            ...data,
            agent_strategy_provider_name: one.provider,
            agent_strategy_name: one.name,
            agent_strategy_label: one.label.en_US,
          })
        }
      />
      <ParameterFields of={known ?? ours} at="agent_parameters" data={data} onChange={onChange} within={within} />
      {parts.data && !known && !ours && (
        <JsonField
          label={t.fields.parameters}
          value={given}
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
    (one) => one.name === name && one.provider === `${plugin}/${provider.split("/").at(-1)}`,
  );
  return (
    <>
      <Trouble of={[parts]} />
      <Pick
        label={t.fields.type}
        value={String(data.provider_type ?? "local_file")}
        onChange={(next) => onChange({ ...data, provider_type: next })}
        options={(["local_file", "online_document", "website_crawl", "online_drive"] as const).map(
          (one) => [one, t.choices[one]] as const,
        )}
      />
      {data.provider_type !== "local_file" && (
        <>
          <PartPick
            label={t.fields.source}
            parts={(parts.data?.datasources ?? []).filter((one) => one.kind === data.provider_type)}
            at={known ? `${known.provider} ${known.name}` : `${plugin} ${name}`.trim()}
            onChoose={(one) =>
              onChange({
                ...data,
                plugin_id: one.plugin,
                provider_name: one.provider.split("/").at(-1),
                datasource_name: one.name,
                datasource_label: one.label.en_US,
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
  const known = parts.data?.events.find((one) => one.name === name && isOf(one, provider));
  const mine = (subscriptions.data ?? []).filter((one) => one.provider === known?.provider);
  const at = String(data.subscription_id ?? "");
  return (
    <>
      <Trouble of={[parts, subscriptions]} />
      <PartPick
        label={t.fields.event}
        parts={parts.data?.events ?? []}
        at={known ? `${known.provider} ${known.name}` : `${provider} ${name}`.trim()}
        onChoose={(one) =>
          onChange({
            ...data,
            plugin_id: one.plugin,
            provider_id: one.provider,
            event_name: one.name,
            subscription_id: "",
            event_parameters: {},
            output_schema: one.output_schema,
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
            ...(at && !mine.some((one) => one.id === at) ? [[at, `${at} (${t.notHere})`] as const] : []),
            ...mine.map((one) => [one.id, one.name] as const),
          ]}
        />
      )}
      {known && subscriptions.data && !mine.length && <p className="wrong small">{t.noSubscription}</p>}
      <ParameterFields of={known} at="event_parameters" data={data} onChange={onChange} within={within} isFixed />
    </>
  );
};
