import { Handle, type NodeProps, Position } from "@xyflow/react";
import { createContext, memo, useContext } from "react";
import { useChosen } from "../settings";
import { CONTAINERS, type FlowNode, handles, ROOTS } from "./file";

export interface Doing {
  status: string;
  seconds: number;
  text: string;
  count: number;
}
// What a run has come to, and what is wrong, by node: beside the drawing, so that a piece of text moves one node alone.
export const Happening = createContext<{ doing: Record<string, Doing>; problems: Record<string, string[]> }>({
  doing: {},
  problems: {},
});

export const Step = memo(({ id, data, selected }: NodeProps<FlowNode>) => {
  const { t, span } = useChosen();
  const { doing, problems } = useContext(Happening);
  const node = data.node;
  const now = doing[id];
  const wrong = problems[id];
  const isContainer = CONTAINERS.includes(node.type);
  const hasIn = !ROOTS.includes(node.type) && node.type !== "iteration-start" && node.type !== "loop-start";
  const outs = handles(node);
  return (
    <div
      className={`step ${now?.status ?? ""}${selected ? " selected" : ""}${isContainer ? " container" : ""}${wrong ? " wrong-step" : ""}`}
    >
      {hasIn && <Handle type="target" position={Position.Left} id="target" />}
      <div className="step-head">
        <span className={`kind k-${node.type}`} aria-hidden="true" />
        <strong>{node.title || node.type}</strong>
      </div>
      <small className="soft">
        {(t.nodeKinds as Record<string, string>)[node.type] ?? node.type}
        {now && now.status !== "running" && now.seconds > 0 && ` · ${span(now.seconds)}`}
        {now && now.count > 1 && ` · ×${now.count}`}
      </small>
      {now?.text && <p className="step-text">{now.text.slice(-160)}</p>}
      {wrong && <p className="step-wrong">{wrong[0]}</p>}
      {outs.length === 1 ? (
        <Handle type="source" position={Position.Right} id={outs[0]!.id} />
      ) : (
        <ul className="outs">
          {outs.map((one) => (
            <li key={one.id}>
              {one.label}
              <Handle type="source" position={Position.Right} id={one.id} />
            </li>
          ))}
        </ul>
      )}
    </div>
  );
});

export const Note = memo(({ data }: NodeProps<FlowNode>) => (
  <div className="note">{String((data.node as { text?: string }).text ?? data.node.title ?? "").slice(0, 400)}</div>
));
