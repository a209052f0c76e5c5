// An app's file and the graph that the canvas shows. Everything else in the file stays as it was.
import type { Edge, Node } from "@xyflow/react";
import { readYaml, writeYaml } from "../yaml";

export type NodeData = Record<string, unknown> & { type: string; title: string };
export type FlowNode = Node<{ node: NodeData } & Record<string, unknown>>;
export type JsonObject = Record<string, unknown>;
export interface Graph {
  nodes: FlowNode[];
  edges: Edge[];
}
export interface AppFile {
  document: JsonObject;
  graph: Graph;
}

export const CONTAINERS = ["iteration", "loop"];
export const ROOTS = ["start", "trigger-webhook", "trigger-schedule", "trigger-plugin", "datasource"];
export const INNER = ["iteration-start", "loop-start"];
const CONTAINER_WIDTH = 460;
const CONTAINER_HEIGHT = 220;

export const asObject = (value: unknown): JsonObject =>
  value && typeof value === "object" && !Array.isArray(value) ? (value as JsonObject) : {};
export const asObjects = (value: unknown): JsonObject[] =>
  Array.isArray(value) ? (value.filter((item) => item && typeof item === "object") as JsonObject[]) : [];

const readNode = (raw: JsonObject, nodeIds: Set<string>): FlowNode => {
  const data = asObject(raw.data) as NodeData;
  const parentId = String(raw.parentId ?? data.iteration_id ?? data.loop_id ?? "");
  const position = asObject(raw.position);
  const isContainer = CONTAINERS.includes(String(data.type));
  const size = { width: Number(raw.width ?? CONTAINER_WIDTH), height: Number(raw.height ?? CONTAINER_HEIGHT) };
  return {
    id: String(raw.id),
    type: raw.type === "custom-note" ? "note" : "step",
    data: {
      node: { ...data, type: String(data.type ?? ""), title: String(data.title ?? data.type ?? "") },
      raw,
    },
    position: { x: Number(position.x ?? 0), y: Number(position.y ?? 0) },
    ...(isContainer ? { style: size } : {}),
    ...(parentId && nodeIds.has(parentId) ? { parentId } : {}),
  };
};

// Dify writes the handle of a form's deadline in two ways. The canvas has one, and the file keeps its own.
const TIMEOUT = "__timeout";
const OTHER_TIMEOUT = "__timeout__";

const readHandle = (handle: unknown): string => (handle === OTHER_TIMEOUT ? TIMEOUT : String(handle || "source"));
const writeHandle = (handle: string | null | undefined, raw: JsonObject): string =>
  handle === TIMEOUT && raw.sourceHandle === OTHER_TIMEOUT ? OTHER_TIMEOUT : handle || "source";

const readEdge = (raw: JsonObject): Edge => {
  const source = String(raw.source);
  const target = String(raw.target);
  return {
    id: String(raw.id ?? `${source}-${String(raw.sourceHandle ?? "source")}-${target}`),
    source,
    target,
    sourceHandle: readHandle(raw.sourceHandle),
    targetHandle: "target",
    data: { raw },
  };
};

// Throws if the text is not YAML. A file without a graph has an empty one.
export const read = (text: string): AppFile => {
  const document = asObject(readYaml(text));
  const rawGraph = asObject(asObject(document.workflow).graph);
  const rawNodes = asObjects(rawGraph.nodes);
  const nodeIds = new Set(rawNodes.map((raw) => String(raw.id)));
  const nodes = rawNodes.map((raw) => readNode(raw, nodeIds));
  const edges = asObjects(rawGraph.edges)
    .filter((raw) => nodeIds.has(String(raw.source)) && nodeIds.has(String(raw.target)))
    .map(readEdge);
  // Containers come first: the positions of the nodes inside are relative to them.
  nodes.sort((a, b) => Number(!!a.parentId) - Number(!!b.parentId));
  return { document, graph: { nodes, edges } };
};

const writeNode = (node: FlowNode) => {
  const raw = asObject(node.data.raw);
  const size = node.style ?? {};
  return {
    ...raw,
    id: node.id,
    type: node.type === "note" ? "custom-note" : (raw.type ?? "custom"),
    data: node.data.node,
    position: { x: Math.round(node.position.x), y: Math.round(node.position.y) },
    ...(node.parentId ? { parentId: node.parentId } : {}),
    ...(size.width ? { width: Number(size.width), height: Number(size.height) } : {}),
  };
};

const writeEdge = (edge: Edge, nodesById: Map<string, FlowNode>) => {
  const raw = asObject(asObject(edge.data).raw);
  const typeOf = (id: string) => nodesById.get(id)?.data.node.type;
  const parentId = nodesById.get(edge.source)?.parentId;
  const containerType = parentId ? typeOf(parentId) : "";
  return {
    ...raw,
    id: edge.id,
    source: edge.source,
    target: edge.target,
    sourceHandle: writeHandle(edge.sourceHandle, raw),
    targetHandle: "target",
    type: "custom",
    data: {
      ...asObject(raw.data),
      sourceType: typeOf(edge.source),
      targetType: typeOf(edge.target),
      isInIteration: containerType === "iteration",
      isInLoop: containerType === "loop",
    },
  };
};

export const write = ({ document, graph }: AppFile): string => {
  const nodesById = new Map(graph.nodes.map((node) => [node.id, node]));
  const nodes = graph.nodes.map(writeNode);
  const edges = graph.edges.map((edge) => writeEdge(edge, nodesById));
  const workflow = asObject(document.workflow);
  return writeYaml({ ...document, workflow: { ...workflow, graph: { ...asObject(workflow.graph), nodes, edges } } });
};
