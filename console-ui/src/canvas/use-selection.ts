import { useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useState } from "react";

export type Panel = "" | "run" | "versions" | "variables";

// Which node and which panel are open. The address names the node and the run, so that it can be shown to others.
export const useSelection = (id: string) => {
  const navigate = useNavigate();
  const search = useSearch({ strict: false }) as { run?: string; node?: string };
  const [selectedId, setSelectedId] = useState(search.node ?? "");
  const [panel, setPanel] = useState<Panel>(search.run ? "run" : "");
  const setSearch = (change: { node?: string | undefined } | { run?: string | undefined }) => {
    const merged = (previous: object) => ({ ...previous, ...change });
    void navigate({ to: "/workflows/$id", params: { id }, search: merged as never, replace: true });
  };
  // biome-ignore lint/correctness/useExhaustiveDependencies: the address follows the choice, not the other way round
  useEffect(() => {
    if ((search.node ?? "") === selectedId) return;
    setSearch({ node: selectedId || undefined });
  }, [selectedId]);
  return {
    selectedId,
    panel,
    runId: search.run ?? "",
    select: setSelectedId,
    showRun: (run: string) => setSearch({ run: run || undefined }),
    togglePanel: (name: Panel) => setPanel(panel === name ? "" : name),
    openNode: (nodeId: string) => {
      setSelectedId(nodeId);
      setPanel("");
    },
    // A click on the canvas leaves the run's panel open.
    selectOnCanvas: (nodeId: string) => {
      setSelectedId(nodeId);
      setPanel((shown) => (shown === "run" ? shown : ""));
    },
  };
};
export type Selection = ReturnType<typeof useSelection>;
