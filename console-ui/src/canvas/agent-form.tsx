// The forms of agent nodes of version 2: which agent, what it is, and what its task returns.
import { useQuery } from "@tanstack/react-query";
import type { ComponentType } from "react";
import { api } from "../api";
import { Json, Pick, Trouble } from "../components/base";
import { Choose } from "../components/menu";
import { type OfferedTool, useTools } from "../components/tools";
import { removeAt, replaceAt } from "../lists";
import { filled } from "../messages";
import { useChosen } from "../settings";
import { PACKAGE_FIELDS } from "./agent-fields";
import {
  addPackage,
  agentKey,
  modelOfSoul,
  nodesOfPackage,
  outputsSchema,
  packageOf,
  packagesOf,
  pathOfReference,
  referenceTo,
  replacePackage,
  soulWithModel,
  withAgent,
} from "./agent-job";
import { type FieldOptions, ModelField, type NodeContext, SelectorField, type Valued } from "./controls";
import { asObject, asObjects, type JsonObject, type NodeData } from "./file";
import { YamlEditor } from "./yaml-editor";

// Draws one field of a form. Handed in, since the forms of nodes contain this one.
type FieldComponent = ComponentType<FieldOptions>;
interface AgentOptions {
  data: NodeData;
  onChange: (data: NodeData) => void;
  within: NodeContext;
  NodeField: FieldComponent;
}

export const AgentField = ({ data, onChange, within, NodeField }: AgentOptions) => {
  const { t } = useChosen();
  const { document } = within.app;
  const agent = packageOf(document, data.agent_binding);
  const bind = (key: string) => onChange({ ...data, agent_binding: withAgent(data.agent_binding, key) });
  const onAdd = () => {
    const added = addPackage(document, data.title);
    within.changeDocument(added.document);
    bind(`package:${added.reference}`);
  };
  return (
    <fieldset>
      <legend>{t.fields.agent}</legend>
      <AgentPick document={document} binding={data.agent_binding} onChange={bind} />
      <button type="button" onClick={onAdd}>
        {t.newAgent}
      </button>
      {agent && <PackageForm reference={agent[0]} agent={agent[1]} within={within} NodeField={NodeField} />}
    </fieldset>
  );
};

// Agents of the file, and apps of this server that are agents.
const AgentPick = ({
  document,
  binding,
  onChange,
}: {
  document: JsonObject;
  binding: unknown;
  onChange: (key: string) => void;
}) => {
  const { t } = useChosen();
  const apps = useQuery({ queryKey: ["apps"], queryFn: api.apps });
  const key = agentKey(binding);
  const offered: [string, string][] = [
    ...packagesOf(document).map(([reference, name]): [string, string] => [
      `package:${reference}`,
      filled(t.agentOfFile, { name }),
    ]),
    ...(apps.data ?? [])
      .filter((app) => app.mode === "agent")
      .map((app): [string, string] => [`app:${app.id}`, filled(t.agentOfServer, { name: app.name })]),
  ];
  // An app can be named instead of its id.
  const byName = apps.data?.find((app) => app.mode === "agent" && key === `app:${app.name}`);
  const isOther = key && !offered.some(([other]) => other === key);
  const otherLabel = byName
    ? filled(t.agentOfServer, { name: byName.name })
    : `${key.slice(key.indexOf(":") + 1)} (${t.notHere})`;
  return (
    <>
      <Trouble of={[apps]} />
      <Pick
        label={t.fields.agent}
        value={key}
        onChange={onChange}
        options={[["", t.chooseOne], ...(isOther ? [[key, otherLabel] as const] : []), ...offered]}
      />
    </>
  );
};

const PackageForm = ({
  reference,
  agent,
  within,
  NodeField,
}: {
  reference: string;
  agent: JsonObject;
  within: NodeContext;
  NodeField: FieldComponent;
}) => {
  const { t } = useChosen();
  const { app, changeDocument } = within;
  const nodeCount = nodesOfPackage(app.graph, reference);
  const onChange = (next: JsonObject) => changeDocument(replacePackage(app.document, reference, next));
  return (
    <details>
      <summary>{t.agentSettings}</summary>
      <div className="form">
        {nodeCount > 1 && <p className="soft small">{filled(t.sharedAgent, { count: nodeCount })}</p>}
        {PACKAGE_FIELDS.map((spec) => (
          <NodeField key={spec.path} spec={spec} data={agent} onChange={onChange} within={within} />
        ))}
        <YamlEditor
          label={t.allOfTheAgent}
          value={agent}
          isComplete={(value) => typeof value.soul === "object" && value.soul !== null}
          onChange={onChange}
        />
      </div>
    </details>
  );
};

export const SoulModelField = ({ label, value, onChange }: Valued) => (
  <ModelField
    label={label}
    value={modelOfSoul(value)}
    onChange={(model) => onChange(soulWithModel(value, asObject(model)))}
  />
);

// The path of a tool's provider, in each of the ways in which packages have it.
const providerOf = (tool: JsonObject): string =>
  String(
    tool.provider_id ||
      (tool.plugin_id && tool.provider ? `${String(tool.plugin_id)}/${String(tool.provider)}` : "") ||
      tool.provider_name ||
      tool.provider ||
      tool.plugin_id ||
      "",
  );

const toolOfSoul = ({ kind, provider, name }: OfferedTool): JsonObject => ({
  enabled: true,
  provider_type: kind === "plugin" ? "builtin" : kind,
  provider_id: provider,
  tool_name: name,
  runtime_parameters: {},
});

export const SoulToolsField = ({ label, value, onChange }: Valued) => {
  const { t } = useChosen();
  const offered = useTools();
  const tools = asObjects(value);
  const nameOf = (tool: JsonObject) => `${providerOf(tool)} / ${String(tool.tool_name || t.allTools)}`;
  const hasTool = ({ provider, name }: OfferedTool) =>
    tools.some((tool) => providerOf(tool) === provider && tool.tool_name === name);
  const keyOf = (tool: OfferedTool) => `${tool.provider} ${tool.name}`;
  const onAdd = (key: string) => {
    const added = offered.data?.find((tool) => keyOf(tool) === key);
    if (added) onChange([...tools, toolOfSoul(added)]);
  };
  return (
    <fieldset>
      <legend>{label}</legend>
      <Trouble of={[offered]} />
      {tools.map((tool, index) => (
        <div className="row tight" key={index}>
          <label className="check">
            <input
              type="checkbox"
              checked={tool.enabled !== false}
              onChange={(event) => onChange(replaceAt(tools, index, { ...tool, enabled: event.target.checked }))}
            />{" "}
            {nameOf(tool)}
          </label>
          <button
            type="button"
            className="icon"
            aria-label={filled(t.removeNamed, { name: nameOf(tool) })}
            onClick={() => onChange(removeAt(tools, index))}
          >
            ×
          </button>
        </div>
      ))}
      <Choose
        label={t.addTool}
        items={(offered.data ?? [])
          .filter((tool) => !hasTool(tool))
          .map((tool) => [keyOf(tool), `${tool.provider} / ${tool.name}`] as const)}
        onChoose={onAdd}
      />
    </fieldset>
  );
};

export const OutputReferencesField = ({ label, value, onChange, within }: Valued & { within: NodeContext }) => {
  const { t } = useChosen();
  const references = asObjects(value);
  return (
    <fieldset>
      <legend>{label}</legend>
      {references.map((reference, index) => (
        <div className="row tight" key={index}>
          <SelectorField
            label={`${index + 1}`}
            value={pathOfReference(reference)}
            onChange={(selector) => onChange(replaceAt(references, index, referenceTo(reference, selector)))}
            within={within}
          />
          <button
            type="button"
            className="icon"
            aria-label={filled(t.removeNamed, { name: index + 1 })}
            onClick={() => onChange(removeAt(references, index))}
          >
            ×
          </button>
        </div>
      ))}
      <button type="button" onClick={() => onChange([...references, referenceTo({}, [])])}>
        {filled(t.addTo, { name: label })}
      </button>
    </fieldset>
  );
};

// What the model's answer has to fit: read alone, since it follows from the outputs.
export const OutputsSchema = ({ label, value }: { label: string; value: unknown }) => {
  const outputs = asObjects(value);
  if (!outputs.length) return null;
  return (
    <details>
      <summary>{label}</summary>
      <Json value={outputsSchema(outputs)} />
    </details>
  );
};
