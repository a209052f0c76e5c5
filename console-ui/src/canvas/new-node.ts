// A node that somebody adds: where it goes, what it is called, and what it is connected to.
import type { Edge } from "@xyflow/react";
import { CONTAINERS, type FlowNode, type Graph, INNER, type NodeData, ROOTS } from "./file";
import { newId, newNodeData } from "./templates";

export interface NewNodeOptions {
  // The type's name in the user's language; a number follows if there is a node with that title.
  typeLabel: string;
  selectedId: string;
  isChat: boolean;
  // Used if no node is selected.
  position: FlowNode["position"];
}

const DISTANCE = 300;
const CONTAINER_SIZE = { width: 460, height: 220 };

const uniqueTitle = (nodes: FlowNode[], label: string): string => {
  const titles = new Set(nodes.map((node) => node.data.node.title));
  let title = label;
  for (let number = 2; titles.has(title); number++) title = `${label} ${number}`;
  return title;
};

const isContainer = (node: FlowNode) => CONTAINERS.includes(node.data.node.type);
const isInnerStart = (node: FlowNode) => INNER.includes(node.data.node.type);

// The selected container, if it holds nothing but its start.
const emptyContainer = (nodes: FlowNode[], selected: FlowNode | undefined): FlowNode | undefined => {
  if (!selected || !isContainer(selected)) return undefined;
  return nodes.every((node) => node.parentId !== selected.id || isInnerStart(node)) ? selected : undefined;
};

const containerReference = (nodes: FlowNode[], parentId: string | undefined): Record<string, string> => {
  if (!parentId) return {};
  const parent = nodes.find((node) => node.id === parentId);
  return { [parent?.data.node.type === "loop" ? "loop_id" : "iteration_id"]: parentId };
};

const innerStart = (type: string, parentId: string): FlowNode => ({
  id: `${parentId}start`,
  type: "step",
  parentId,
  position: { x: 30, y: 80 },
  data: {
    node: {
      type: `${type}-start`,
      title: "",
      [`${type}_id`]: parentId,
      [`isIn${type === "loop" ? "Loop" : "Iteration"}`]: true,
    } as NodeData,
  },
});

const edgesTo = (type: string, id: string, previous: FlowNode | undefined): Edge[] => {
  if (!previous || ROOTS.includes(type)) return [];
  const previousType = previous.data.node.type;
  if (previousType === "end" || previousType === "loop-end") return [];
  return [
    {
      id: `${previous.id}-source-${id}-target`,
      source: previous.id,
      target: id,
      sourceHandle: previousType === "if-else" ? "true" : "source",
      targetHandle: "target",
    },
  ];
};

// A new node comes after the selected one, or at the start of the selected container if that is empty. A new container
// brings its own start. The result has only what is to be added to the graph; the new node is its first.
export const newNode = (type: string, { nodes }: Graph, options: NewNodeOptions): Graph => {
  const selected = nodes.find((node) => node.id === options.selectedId);
  const container = emptyContainer(nodes, selected);
  const parentId = container?.id ?? selected?.parentId;
  const start = container && nodes.find((node) => node.parentId === container.id && isInnerStart(node));
  const previous = start ?? selected;
  const id = newId();
  const node: FlowNode = {
    id,
    type: "step",
    data: {
      node: {
        ...newNodeData(type, uniqueTitle(nodes, options.typeLabel), options.isChat),
        ...containerReference(nodes, parentId),
      },
    },
    position: previous ? { x: previous.position.x + DISTANCE, y: previous.position.y } : options.position,
    ...(parentId ? { parentId } : {}),
  };
  const edges = edgesTo(type, id, previous);
  if (!CONTAINERS.includes(type)) return { nodes: [node], edges };
  const inner = innerStart(type, id);
  node.style = { ...CONTAINER_SIZE };
  node.data.node = { ...node.data.node, start_node_id: inner.id };
  return { nodes: [node, inner], edges };
};
