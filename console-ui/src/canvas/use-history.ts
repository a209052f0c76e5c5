import { type Dispatch, type RefObject, type SetStateAction, useCallback, useState } from "react";
import type { AppFile, Graph } from "./file";
import { redo, remember, type Timeline, undo, withoutFuture } from "./timeline";

// Edits of the graph that can be undone. `remember` stores the graph as it is, before a change that ReactFlow makes.
export const useHistory = (
  current: RefObject<AppFile>,
  setGraph: Dispatch<SetStateAction<Graph>>,
  onChange: () => void,
) => {
  const [timeline, setTimeline] = useState<Timeline<Graph>>({ past: [], future: [] });
  const rememberGraph = useCallback(() => {
    // Read now, not when React updates the state: by then it may be the graph after the change.
    const { graph } = current.current;
    setTimeline((earlier) => remember(earlier, graph));
  }, [current]);
  const edit = useCallback(
    (change: (graph: Graph) => Graph) => {
      rememberGraph();
      setTimeline(withoutFuture);
      setGraph(change);
      onChange();
    },
    [rememberGraph, setGraph, onChange],
  );
  const restore = (step: typeof undo<Graph>) => {
    const restored = step(timeline, current.current.graph);
    if (!restored) return;
    setTimeline(restored.timeline);
    setGraph(restored.state);
    onChange();
  };
  return {
    edit,
    remember: rememberGraph,
    undo: () => restore(undo),
    redo: () => restore(redo),
    canUndo: timeline.past.length > 0,
    canRedo: timeline.future.length > 0,
  };
};
export type History = ReturnType<typeof useHistory>;
