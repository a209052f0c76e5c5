// All nodes as a list, for those who do not use the canvas.
import { filled } from "../messages";
import { useChosen } from "../settings";
import { type FlowNode, INNER } from "./file";
import { useNodeTypeLabel } from "./node-labels";

const MAX_NODES = 500;

export const Outline = ({ nodes, onOpen }: { nodes: FlowNode[]; onOpen: (id: string) => void }) => {
  const { t } = useChosen();
  const typeLabel = useNodeTypeLabel();
  const steps = nodes.filter((node) => node.type !== "note" && !INNER.includes(node.data.node.type));
  return (
    <details className="outline">
      <summary>{filled(t.allNodes, { count: nodes.length })}</summary>
      <ul className="plain">
        {steps.slice(0, MAX_NODES).map((node) => (
          <li key={node.id}>
            <button type="button" className="link" onClick={() => onOpen(node.id)}>
              {node.data.node.title}
            </button>{" "}
            <span className="soft small">{typeLabel(node.data.node.type)}</span>
          </li>
        ))}
      </ul>
    </details>
  );
};
