import { useChosen } from "../settings";

// The name of a node type in the user's language, else the type as files have it.
export const useNodeTypeLabel = () => {
  const { t } = useChosen();
  const labels = t.nodeKinds as Record<string, string>;
  return (type: string): string => labels[type] ?? type;
};
