// Places the nodes of a graph from left to right, the inside of each container by itself.
import dagre from "@dagrejs/dagre";
import type { Edge } from "@xyflow/react";
import { CONTAINERS, type FlowNode, type Graph } from "./file";

interface Size {
  width: number;
  height: number;
}
type Position = FlowNode["position"];

const NODE_SIZE: Size = { width: 220, height: 76 };
const CANVAS_MARGIN = { x: 60, y: 60 };
// Leaves room for the container's own title.
const CONTAINER_MARGIN = { x: 30, y: 70 };
const CONTAINER_PADDING = 30;

// The positions of nodes that share a container, and the size of what they take up.
const layOutLevel = (nodes: FlowNode[], edges: Edge[], sizes: Map<string, Size>, margin: Position) => {
  const graph = new dagre.graphlib.Graph()
    .setGraph({ rankdir: "LR", nodesep: 40, ranksep: 80 })
    .setDefaultEdgeLabel(() => ({}));
  for (const node of nodes) graph.setNode(node.id, { ...(sizes.get(node.id) ?? NODE_SIZE) });
  for (const edge of edges)
    if (graph.hasNode(edge.source) && graph.hasNode(edge.target)) graph.setEdge(edge.source, edge.target);
  dagre.layout(graph);
  const positions = new Map<string, Position>();
  const bounds: Size = { width: 0, height: 0 };
  for (const node of nodes) {
    const { x, y, width, height } = graph.node(node.id) as Position & Size;
    const position = { x: x - width / 2 + margin.x, y: y - height / 2 + margin.y };
    positions.set(node.id, position);
    bounds.width = Math.max(bounds.width, position.x + width);
    bounds.height = Math.max(bounds.height, position.y + height);
  }
  return { positions, bounds };
};

export const layOut = ({ nodes, edges }: Graph): Graph => {
  const positions = new Map<string, Position>();
  const sizes = new Map<string, Size>();
  const containerIds = nodes.filter((node) => CONTAINERS.includes(node.data.node.type)).map((node) => node.id);
  // The inside first: it decides a container's size. The canvas itself is the level without a name.
  for (const level of ["", ...containerIds].reverse()) {
    const levelNodes = nodes.filter((node) => (node.parentId ?? "") === level);
    if (!levelNodes.length) continue;
    const inside = layOutLevel(levelNodes, edges, sizes, level ? CONTAINER_MARGIN : CANVAS_MARGIN);
    for (const [id, position] of inside.positions) positions.set(id, position);
    if (!level) continue;
    const { width, height } = inside.bounds;
    sizes.set(level, { width: width + CONTAINER_PADDING, height: height + CONTAINER_PADDING });
  }
  return {
    edges,
    nodes: nodes.map((node) => ({
      ...node,
      position: positions.get(node.id) ?? node.position,
      ...(sizes.has(node.id) ? { style: { ...node.style, ...sizes.get(node.id)! } } : {}),
    })),
  };
};
