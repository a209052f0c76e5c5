// Copies of nodes, which can be pasted into any app of this browser.
import type { Edge } from "@xyflow/react";
import type { FlowNode, Graph } from "./file";
import { newId } from "./templates";

const OFFSET = { x: 40, y: 60 };

// The nodes with these ids, the nodes inside of them, and the edges between the nodes.
export const subgraph = ({ nodes, edges }: Graph, ids: Set<string>): Graph => ({
  nodes: nodes.filter((node) => ids.has(node.id) || (node.parentId && ids.has(node.parentId))),
  edges: edges.filter((edge) => ids.has(edge.source) && ids.has(edge.target)),
});

// The same nodes with new ids and titles, a little lower. A node whose container was not copied stays in it.
export const duplicate = ({ nodes, edges }: Graph): Graph => {
  const newIds = new Map(nodes.map((node) => [node.id, newId()]));
  const copyNode = (node: FlowNode): FlowNode => ({
    ...node,
    id: newIds.get(node.id)!,
    selected: false,
    position: node.parentId ? node.position : { x: node.position.x + OFFSET.x, y: node.position.y + OFFSET.y },
    ...(node.parentId ? { parentId: newIds.get(node.parentId) ?? node.parentId } : {}),
    data: { node: { ...node.data.node, title: node.data.node.title && `${node.data.node.title} 2` } },
  });
  const copyEdge = (edge: Edge): Edge => ({
    ...edge,
    id: `${newIds.get(edge.source)}-${edge.sourceHandle}-${newIds.get(edge.target)}`,
    source: newIds.get(edge.source)!,
    target: newIds.get(edge.target)!,
  });
  return { nodes: nodes.map(copyNode), edges: edges.map(copyEdge) };
};
