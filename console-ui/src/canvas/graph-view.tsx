// The graph itself: nodes and edges that can be moved, connected and removed.
import { Background, Controls, type Edge, MiniMap, ReactFlow } from "@xyflow/react";
import { useMemo } from "react";
import { useChosen } from "../settings";
import type { FlowNode, Graph } from "./file";
import { type NodeProgress, Note, Step } from "./step";
import type { useGraphChanges } from "./use-graph-changes";

const COMPONENTS = { step: Step, note: Note };

// Edges that the run has passed stand out.
const useRunEdges = (edges: Edge[], progress: Record<string, NodeProgress>): Edge[] =>
  useMemo(
    () =>
      edges.map((edge) => {
        const targetStatus = progress[edge.target]?.status;
        const isPassed = progress[edge.source]?.status === "succeeded" && !!targetStatus;
        return isPassed ? { ...edge, animated: targetStatus === "running", className: "passed" } : edge;
      }),
    [edges, progress],
  );

export const GraphView = ({
  graph,
  progress,
  changes,
  onDragStart,
  onSelectNode,
  onSelectNothing,
}: {
  graph: Graph;
  progress: Record<string, NodeProgress>;
  changes: ReturnType<typeof useGraphChanges>;
  onDragStart: () => void;
  onSelectNode: (id: string) => void;
  // After a click on the empty canvas.
  onSelectNothing: () => void;
}) => {
  const { t } = useChosen();
  const edges = useRunEdges(graph.edges, progress);
  return (
    <div className="canvas">
      <ReactFlow<FlowNode, Edge>
        nodes={graph.nodes}
        edges={edges}
        nodeTypes={COMPONENTS}
        onNodesChange={changes.onNodesChange}
        onEdgesChange={changes.onEdgesChange}
        onConnect={changes.connect}
        onNodeDragStart={onDragStart}
        onSelectionChange={({ nodes }) => {
          if (nodes.length === 1) onSelectNode(nodes[0]!.id);
        }}
        onPaneClick={() => onSelectNothing()}
        fitView
        minZoom={0.05}
        onlyRenderVisibleElements
        deleteKeyCode={["Delete", "Backspace"]}
        proOptions={{ hideAttribution: true }}
        aria-label={t.canvas}
        ariaLabelConfig={{
          "controls.zoomIn.ariaLabel": t.zoomIn,
          "controls.zoomOut.ariaLabel": t.zoomOut,
          "controls.fitView.ariaLabel": t.fitView,
          "minimap.ariaLabel": t.miniMap,
          "node.a11yDescription.default": t.nodeHelp,
          "edge.a11yDescription.default": t.edgeHelp,
        }}
      >
        <Background />
        <Controls showInteractive={false} />
        <MiniMap pannable zoomable />
      </ReactFlow>
    </div>
  );
};
