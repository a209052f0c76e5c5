import { Handle, type NodeProps, Position } from "@xyflow/react";
import { createContext, memo, useContext } from "react";
import { useChosen } from "../settings";
import { CONTAINERS, type FlowNode, INNER, ROOTS } from "./file";
import { type BranchHandle, handles } from "./handles";
import { useNodeTypeLabel } from "./node-labels";

// How far a run has come with a node.
export interface NodeProgress {
  status: string;
  seconds: number;
  text: string;
  // How often the node has started: several times in a loop.
  count: number;
}
// The progress and the problems of each node. They are not part of the graph, so that a new piece of text renders one
// node alone.
export const NodeStates = createContext<{
  progress: Record<string, NodeProgress>;
  problems: Record<string, string[]>;
}>({ progress: {}, problems: {} });

const MAX_TEXT_LENGTH = 160;
const MAX_NOTE_LENGTH = 400;

const OutgoingHandles = ({ branches }: { branches: BranchHandle[] }) => {
  if (branches.length === 1) return <Handle type="source" position={Position.Right} id={branches[0]!.id} />;
  return (
    <ul className="outs">
      {branches.map((branch) => (
        <li key={branch.id}>
          {branch.label}
          <Handle type="source" position={Position.Right} id={branch.id} />
        </li>
      ))}
    </ul>
  );
};

export const Step = memo(({ id, data, selected }: NodeProps<FlowNode>) => {
  const { span } = useChosen();
  const typeLabel = useNodeTypeLabel();
  const states = useContext(NodeStates);
  const node = data.node;
  const progress = states.progress[id];
  const problems = states.problems[id];
  const isContainer = CONTAINERS.includes(node.type);
  const hasInput = !ROOTS.includes(node.type) && !INNER.includes(node.type);
  return (
    <div
      className={`step ${progress?.status ?? ""}${selected ? " selected" : ""}${isContainer ? " container" : ""}${problems ? " wrong-step" : ""}`}
    >
      {hasInput && <Handle type="target" position={Position.Left} id="target" />}
      <div className="step-head">
        <span className={`kind k-${node.type}`} aria-hidden="true" />
        <strong>{node.title || node.type}</strong>
      </div>
      <small className="soft">
        {typeLabel(node.type)}
        {progress && progress.status !== "running" && progress.seconds > 0 && ` · ${span(progress.seconds)}`}
        {progress && progress.count > 1 && ` · ×${progress.count}`}
      </small>
      {progress?.text && <p className="step-text">{progress.text.slice(-MAX_TEXT_LENGTH)}</p>}
      {problems && <p className="step-wrong">{problems[0]}</p>}
      <OutgoingHandles branches={handles(node)} />
    </div>
  );
});

export const Note = memo(({ data }: NodeProps<FlowNode>) => {
  const text = String((data.node as { text?: string }).text ?? data.node.title ?? "");
  return <div className="note">{text.slice(0, MAX_NOTE_LENGTH)}</div>;
});
