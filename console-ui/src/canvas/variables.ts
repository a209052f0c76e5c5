// The variables of a workflow: which a node sets, and which it can read.
import { declaredKinds, isAgentJob } from "./agent-job";
import { type AppFile, asObject, asObjects, type FlowNode, type Graph, type JsonObject, type NodeData } from "./file";

export interface Variable {
  selector: string[];
  kind: string;
}
type NamedKind = [name: string, kind: string];

// The outputs that every node of a type has.
const OUTPUTS: Record<string, NamedKind[]> = {
  llm: [
    ["text", "string"],
    ["reasoning_content", "string"],
    ["usage", "object"],
  ],
  "template-transform": [["output", "string"]],
  "variable-aggregator": [["output", "any"]],
  "variable-assigner": [["output", "any"]],
  "http-request": [
    ["body", "string"],
    ["status_code", "number"],
    ["headers", "object"],
    ["files", "array[file]"],
  ],
  "knowledge-retrieval": [["result", "array[object]"]],
  "question-classifier": [
    ["class_name", "string"],
    ["class_label", "string"],
  ],
  "parameter-extractor": [
    ["__is_success", "number"],
    ["__reason", "string"],
  ],
  iteration: [["output", "array"]],
  "list-operator": [
    ["result", "array"],
    ["first_record", "any"],
    ["last_record", "any"],
  ],
  "document-extractor": [["text", "string"]],
  tool: [
    ["text", "string"],
    ["files", "array[file]"],
    ["json", "array[object]"],
  ],
  agent: [
    ["text", "string"],
    ["files", "array[file]"],
    ["json", "array[object]"],
  ],
  "human-input": [
    ["__action_id", "string"],
    ["__rendered_content", "string"],
  ],
};

const namedKinds = (items: unknown, nameKey: string, kindKey: string): NamedKind[] =>
  asObjects(items).map((item) => [String(item[nameKey]), String(item[kindKey])]);

const webhookOutputs = (data: NodeData): NamedKind[] =>
  ["headers", "params", "body"].flatMap((section) =>
    namedKinds(data[section], "name", "type").map(([name, kind]): NamedKind => [name.replaceAll("-", "_"), kind]),
  );

// The outputs that depend on what is configured in the node.
const configuredOutputs = (data: NodeData): NamedKind[] => {
  switch (data.type) {
    case "start":
      return namedKinds(data.variables, "variable", "type");
    case "code":
      return Object.entries(asObject(data.outputs)).map(([name, output]) => [name, String(asObject(output).type)]);
    case "parameter-extractor":
      return namedKinds(data.parameters, "name", "type");
    case "human-input":
      return asObjects(data.inputs).map((input) => [String(input.output_variable_name), "string"]);
    case "loop":
      return namedKinds(data.loop_variables, "label", "var_type");
    case "llm":
      return data.structured_output_enabled ? [["structured_output", "object"]] : [];
    case "trigger-webhook":
      return webhookOutputs(data);
    case "trigger-plugin": {
      const properties = Object.entries(asObject(asObject(data.output_schema).properties));
      return properties.map(([name, schema]) => [name, String(asObject(schema).type ?? "any")]);
    }
    default:
      return [];
  }
};

// An agent whose task declares outputs has those, instead of a text.
const agentOutputs = (data: NodeData): NamedKind[] => {
  const declared = isAgentJob(data) ? declaredKinds(data) : [];
  return declared.length ? [["usage", "object"], ...declared] : OUTPUTS.agent!;
};

export const outputs = (id: string, data: NodeData): Variable[] =>
  (data.type === "agent" ? agentOutputs(data) : [...(OUTPUTS[data.type] ?? []), ...configuredOutputs(data)]).map(
    ([name, kind]) => ({ selector: [id, name], kind }),
  );

// The ids of the nodes that run before a node, and of the containers that they and it are in; nearest first.
const nodesBefore = (id: string, { edges }: Graph, parentIds: Map<string, string | undefined>): Set<string> => {
  const visitedIds = new Set<string>();
  const pendingIds = [id];
  while (pendingIds.length) {
    const currentId = pendingIds.pop()!;
    const sourceIds = edges.filter((edge) => edge.target === currentId).map((edge) => edge.source);
    for (const nearId of [parentIds.get(currentId), ...sourceIds])
      if (nearId !== undefined && !visitedIds.has(nearId)) {
        visitedIds.add(nearId);
        pendingIds.push(nearId);
      }
  }
  return visitedIds;
};

const SYSTEM_VARIABLES: NamedKind[] = [["files", "array[file]"]];
const CHAT_SYSTEM_VARIABLES: NamedKind[] = [
  ["query", "string"],
  ["files", "array[file]"],
  ["conversation_id", "string"],
  ["dialogue_count", "number"],
];

const systemVariables = (mode: string): Variable[] =>
  [...(mode === "advanced-chat" ? CHAT_SYSTEM_VARIABLES : SYSTEM_VARIABLES), ["user_id", "string"]].map(
    ([name, kind]) => ({ selector: ["sys", name!], kind: kind! }),
  );

const declaredVariables = (scope: string, declarations: unknown): Variable[] =>
  asObjects(declarations).map(({ name, value_type }: JsonObject) => ({
    selector: [scope, String(name)],
    kind: String(value_type ?? "string"),
  }));

// What a node of a graph offers to another: an iteration offers its item and index to the nodes inside.
const offeredVariables = (node: FlowNode | undefined, isDirectParent: boolean): Variable[] => {
  if (!node) return [];
  if (node.data.node.type === "iteration" && isDirectParent)
    return [
      { selector: [node.id, "item"], kind: "any" },
      { selector: [node.id, "index"], kind: "number" },
    ];
  return outputs(node.id, node.data.node);
};

// All that a node can read: from the nodes before it, the containers around it, and what every app has.
export const readableVariables = (id: string, { document, graph }: AppFile): Variable[] => {
  const nodesById = new Map(graph.nodes.map((node) => [node.id, node]));
  const parentIds = new Map(graph.nodes.map((node) => [node.id, node.parentId]));
  const workflow = asObject(document.workflow);
  const earlierIds = [...nodesBefore(id, graph, parentIds)];
  return [
    ...earlierIds.flatMap((earlierId) => offeredVariables(nodesById.get(earlierId), parentIds.get(id) === earlierId)),
    ...systemVariables(String(asObject(document.app).mode)),
    ...declaredVariables("env", workflow.environment_variables),
    ...declaredVariables("conversation", workflow.conversation_variables),
  ];
};
