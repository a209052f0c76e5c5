// Agent nodes of version 2: the agent that a node runs, and the task that it gets. What the forms do not know of either
// stays as it is in the file.
import { asObject, asObjects, type Graph, type JsonObject, type NodeData } from "./file";

// As the server decides: nodes of version 1 name a strategy.
export const isAgentJob = (data: JsonObject): boolean => {
  if (data.agent_node_kind === "dify_agent") return true;
  if (data.agent_strategy_name) return false;
  return String(data.version ?? "") === "2" || "agent_binding" in data || "agent_job" in data;
};

// Which agent a binding names, as a key of a choice; empty without any.
export const agentKey = (binding: unknown): string => {
  const { package_ref, agent_id } = asObject(binding);
  if (package_ref) return `package:${String(package_ref)}`;
  return agent_id ? `app:${String(agent_id)}` : "";
};

const without = (value: JsonObject, names: string[]): JsonObject =>
  Object.fromEntries(Object.entries(value).filter(([name]) => !names.includes(name)));

// The binding to another agent. The version of an app means nothing for another app.
export const withAgent = (binding: unknown, key: string): JsonObject => {
  const before = asObject(binding);
  if (key === agentKey(before)) return before;
  const [type, ...reference] = key.split(":");
  const others = without(before, ["package_ref", "agent_id", "current_snapshot_id"]);
  if (type === "app") return { ...others, binding_type: "roster_agent", agent_id: reference.join(":") };
  return { ...others, binding_type: "inline_agent", package_ref: reference.join(":") };
};

export const packageOf = (document: JsonObject, binding: unknown): [name: string, agent: JsonObject] | null => {
  const name = String(asObject(binding).package_ref ?? "");
  const agent = asObject(document.agent_packages)[name];
  return agent && typeof agent === "object" ? [name, agent as JsonObject] : null;
};

// (reference, name) of each agent in a file.
export const packagesOf = (document: JsonObject): [reference: string, name: string][] =>
  Object.entries(asObject(document.agent_packages)).map(([reference, agent]) => [
    reference,
    String(asObject(asObject(agent).metadata).name || reference),
  ]);

export const replacePackage = (document: JsonObject, reference: string, agent: JsonObject): JsonObject => ({
  ...document,
  agent_packages: { ...asObject(document.agent_packages), [reference]: agent },
});

// A file with one more agent, and the reference to it.
export const addPackage = (document: JsonObject, name: string): { document: JsonObject; reference: string } => {
  const packages = asObject(document.agent_packages);
  let number = Object.keys(packages).length + 1;
  while (`agent_${number}` in packages) number++;
  const agent = {
    schema_version: 1,
    metadata: { name, description: "", role: "" },
    soul: { schema_version: 1, prompt: { system_prompt: "" }, model: null },
    omitted_assets: [],
  };
  const reference = `agent_${number}`;
  return { document: replacePackage(document, reference, agent), reference };
};

// How many nodes run an agent of the file: a change of it changes all of them.
export const nodesOfPackage = (graph: Graph, reference: string): number =>
  graph.nodes.filter(({ data: { node } }) => String(asObject(node.agent_binding).package_ref ?? "") === reference)
    .length;

// The model of an agent as nodes have it, and back. Settings that are null were left alone by the author.
export const modelOfSoul = (model: unknown): JsonObject => {
  const { model_provider, plugin_id, model: name, model_settings } = asObject(model);
  const settings = Object.entries(asObject(model_settings)).filter(([, value]) => value !== null);
  return {
    provider: String(model_provider || plugin_id || ""),
    name: String(name ?? ""),
    completion_params: Object.fromEntries(settings),
  };
};

export const soulWithModel = (before: unknown, model: JsonObject): JsonObject => {
  const previous = asObject(before);
  const unset = Object.entries(asObject(previous.model_settings)).filter(([, value]) => value === null);
  const provider = String(model.provider ?? "");
  const isSame = provider === String(previous.model_provider || previous.plugin_id || "");
  const reference = isSame ? {} : { model_provider: provider, plugin_id: provider.split("/").slice(0, -1).join("/") };
  return {
    ...previous,
    ...reference,
    // Without a name the server takes its default model.
    model: model.name === "default" ? "" : String(model.name ?? ""),
    model_settings: { ...Object.fromEntries(unset), ...asObject(model.completion_params) },
  };
};

// An output of an earlier node that a task needs.
export const pathOfReference = (reference: JsonObject): string[] => {
  for (const name of ["selector", "variable_selector", "value_selector"]) {
    const selector = reference[name];
    if (Array.isArray(selector) && selector.length > 1) return selector.map(String);
  }
  const output = reference.output || reference.name || reference.variable || reference.key;
  return reference.node_id && output ? [String(reference.node_id), String(output)] : [];
};

export const referenceTo = (before: JsonObject, selector: string[]): JsonObject => ({
  ...without(before, ["variable_selector", "value_selector", "name", "variable", "key"]),
  selector,
  node_id: selector[0] ?? "",
  output: selector.slice(1).join("."),
});

const KINDS: Record<string, string> = { string: "string", number: "number", boolean: "boolean", file: "file" };

// The outputs that a task declares, as (name, kind); without any, an agent has its own.
export const declaredKinds = (data: NodeData): [name: string, kind: string][] =>
  asObjects(asObject(data.agent_job).declared_outputs).map((output) => {
    const type = String(output.type ?? "string");
    const itemType = String(asObject(output.array_item).type ?? "object");
    return [String(output.name), type === "array" ? `array[${itemType}]` : (KINDS[type] ?? "object")];
  });

const FILE_SCHEMA: JsonObject = {
  type: "object",
  properties: {
    url: { type: "string", description: "The address of a file." },
    reference: { type: "string", description: "The name of a file that a tool returned." },
  },
};

const valueSchema = (type: string, description: unknown, item: unknown, children: JsonObject[]): JsonObject => {
  const note = description ? { description } : {};
  if (type === "file") return { ...FILE_SCHEMA, ...note };
  if (type === "array") {
    const { type: itemType, description: itemNote, children: fields } = asObject(item);
    return {
      type,
      items: valueSchema(String(itemType ?? "object"), itemNote, null, asObjects(fields)),
      ...note,
    };
  }
  return { ...(type === "object" && children.length ? outputsSchema(children) : { type }), ...note };
};

// Files come from tools as well, so the model need not name them.
const isOfFiles = (output: JsonObject): boolean =>
  output.type === "file" || (output.type === "array" && asObject(output.array_item).type === "file");

// The JSON schema that the model's answer has to fit, as the server makes it of the declared outputs.
export const outputsSchema = (outputs: JsonObject[]): JsonObject => {
  const properties = outputs.map((output) => [
    String(output.name),
    valueSchema(String(output.type ?? "string"), output.description, output.array_item, asObjects(output.children)),
  ]);
  const required = outputs.filter((output) => output.required !== false && !isOfFiles(output));
  return {
    type: "object",
    properties: Object.fromEntries(properties),
    ...(required.length ? { required: required.map((output) => String(output.name)) } : {}),
  };
};
