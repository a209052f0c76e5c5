import { applyEdgeChanges, applyNodeChanges, type Edge, type EdgeChange, type NodeChange } from "@xyflow/react";
import { type Dispatch, type SetStateAction, useCallback } from "react";
import type { FlowNode, Graph } from "./file";
import { addEdge, type EdgeEnds, newEdge } from "./graph-edits";
import type { History } from "./use-history";

// A drag or a resize counts once it ends; a selection is no change of the app.
const isEdit = (change: NodeChange<FlowNode>) =>
  change.type === "remove" ||
  (change.type === "position" && change.dragging === false) ||
  (change.type === "dimensions" && change.resizing === false);

// What ReactFlow reports: nodes and edges that are moved, removed, selected or connected.
export const useGraphChanges = (
  { edit, remember }: Pick<History, "edit" | "remember">,
  setGraph: Dispatch<SetStateAction<Graph>>,
  onChange: () => void,
) => {
  const onNodesChange = useCallback(
    (changes: NodeChange<FlowNode>[]) => {
      if (changes.some((change) => change.type === "remove")) remember();
      setGraph((graph) => ({ ...graph, nodes: applyNodeChanges(changes, graph.nodes) }));
      if (changes.some(isEdit)) onChange();
    },
    [remember, setGraph, onChange],
  );
  const onEdgesChange = useCallback(
    (changes: EdgeChange<Edge>[]) => {
      if (changes.some((change) => change.type === "remove")) {
        remember();
        onChange();
      }
      setGraph((graph) => ({ ...graph, edges: applyEdgeChanges(changes, graph.edges) }));
    },
    [remember, setGraph, onChange],
  );
  const connect = useCallback(
    (ends: EdgeEnds) => {
      if (!ends.source || !ends.target || ends.source === ends.target) return;
      const edge = newEdge(ends);
      edit((graph) => addEdge(graph, edge));
    },
    [edit],
  );
  return { onNodesChange, onEdgesChange, connect };
};
