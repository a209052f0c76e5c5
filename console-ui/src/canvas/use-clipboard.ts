import { useToast } from "../components/base";
import { filled } from "../messages";
import { useChosen } from "../settings";
import { duplicate, subgraph } from "./copied-nodes";
import type { Graph } from "./file";
import { merge } from "./graph-edits";
import type { History } from "./use-history";

const STORAGE_KEY = "modelyard.nodes";

// Copies and pastes nodes. The browser stores the copy, so that it can be pasted into another app.
export const useClipboard = (graph: Graph, selectedId: string, edit: History["edit"]) => {
  const { t } = useChosen();
  const toast = useToast();
  const copy = () => {
    const selectedNodes = graph.nodes.filter((node) => node.selected || node.id === selectedId);
    const ids = new Set(selectedNodes.map((node) => node.id));
    if (!ids.size) return;
    localStorage.setItem(STORAGE_KEY, JSON.stringify(subgraph(graph, ids)));
    toast(filled(t.copiedNodes, { count: ids.size }));
  };
  const paste = () => {
    const copied = JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "null") as Graph | null;
    if (!copied) return;
    const added = duplicate(copied);
    edit((current) => merge(current, added));
  };
  return { copy, paste };
};
