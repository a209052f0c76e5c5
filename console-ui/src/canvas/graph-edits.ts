// Changes of a graph. Each returns a new graph, or the same one if nothing changes.
import type { Edge } from "@xyflow/react";
import type { Graph, NodeData } from "./file";

export interface EdgeEnds {
  source: string;
  target: string;
  sourceHandle?: string | null;
}

export const merge = (graph: Graph, added: Graph): Graph => ({
  nodes: [...graph.nodes, ...added.nodes],
  edges: [...graph.edges, ...added.edges],
});

export const newEdge = ({ source, target, sourceHandle }: EdgeEnds): Edge => ({
  id: `${source}-${sourceHandle ?? "source"}-${target}-target`,
  source,
  target,
  sourceHandle: sourceHandle ?? "source",
  targetHandle: "target",
});

export const addEdge = (graph: Graph, edge: Edge): Graph =>
  graph.edges.some((existing) => existing.id === edge.id) ? graph : { ...graph, edges: [...graph.edges, edge] };

export const removeEdge = (graph: Graph, id: string): Graph => ({
  ...graph,
  edges: graph.edges.filter((edge) => edge.id !== id),
});

export const replaceNodeData = (graph: Graph, id: string, data: NodeData): Graph => ({
  ...graph,
  nodes: graph.nodes.map((node) => (node.id === id ? { ...node, data: { ...node.data, node: data } } : node)),
});

// Removes a node, the nodes inside of it, and their edges.
export const removeNode = ({ nodes, edges }: Graph, id: string): Graph => {
  const innerIds = nodes.filter((node) => node.parentId === id).map((node) => node.id);
  const removedIds = new Set([id, ...innerIds]);
  return {
    nodes: nodes.filter((node) => !removedIds.has(node.id)),
    edges: edges.filter((edge) => !removedIds.has(edge.source) && !removedIds.has(edge.target)),
  };
};
