// The form of the selected node.
import type { Edge } from "@xyflow/react";
import { Field } from "../components/base";
import { Choose } from "../components/menu";
import { filled } from "../messages";
import { useChosen } from "../settings";
import type { NodeContext } from "./controls";
import { FailureForm } from "./failure-form";
import { FIELDS, MAY_FAIL } from "./fields";
import type { AppFile, FlowNode, JsonObject, NodeData } from "./file";
import { type BranchHandle, handles } from "./handles";
import { NodeField } from "./node-fields";
import { useNodeTypeLabel } from "./node-labels";
import { NodeTest } from "./node-test";
import { readableVariables } from "./variables";
import { YamlEditor } from "./yaml-editor";

interface InspectorOptions {
  app: AppFile;
  appId: string;
  id: string;
  problems: string[];
  times: number[];
  text: () => string;
  onChange: (data: NodeData) => void;
  onChangeDocument: (document: JsonObject) => void;
  onConnect: (handle: string, target: string) => void;
  onDisconnect: (edge: string) => void;
  onRemove: () => void;
}

// The edges from one handle, and a menu of nodes that it can be connected to.
const Branch = ({
  handle,
  edges,
  targets,
  titles,
  onConnect,
  onDisconnect,
}: {
  handle: BranchHandle;
  edges: Edge[];
  targets: FlowNode[];
  titles: Map<string, string>;
  onConnect: (target: string) => void;
  onDisconnect: (edge: string) => void;
}) => {
  const { t } = useChosen();
  return (
    <div>
      {handle.label && <p className="soft">{handle.label}</p>}
      <ul className="plain">
        {edges.map((edge) => (
          <li key={edge.id} className="row tight">
            {titles.get(edge.target)}{" "}
            <button
              type="button"
              className="icon"
              aria-label={filled(t.disconnect, { name: titles.get(edge.target) ?? "" })}
              onClick={() => onDisconnect(edge.id)}
            >
              ×
            </button>
          </li>
        ))}
      </ul>
      <Choose
        label={t.connectTo}
        name={`${t.connectTo} ${handle.label}`.trim()}
        items={targets.map((node) => [node.id, node.data.node.title] as const)}
        onChoose={onConnect}
      />
    </div>
  );
};

// Nodes that an edge from this one can lead to: those in the same container.
const siblings = (node: FlowNode, nodes: FlowNode[]): FlowNode[] =>
  nodes.filter(
    (other) => other.id !== node.id && other.type !== "note" && (other.parentId ?? "") === (node.parentId ?? ""),
  );

const Branches = ({
  node,
  options,
  titles,
}: {
  node: FlowNode;
  options: InspectorOptions;
  titles: Map<string, string>;
}) => {
  const { t } = useChosen();
  const { app, onConnect, onDisconnect } = options;
  const outgoing = app.graph.edges.filter((edge) => edge.source === node.id);
  return (
    <fieldset>
      <legend>{t.goesOnTo}</legend>
      {handles(node.data.node).map((handle) => (
        <Branch
          key={handle.id}
          handle={handle}
          edges={outgoing.filter((edge) => edge.sourceHandle === handle.id)}
          targets={siblings(node, app.graph.nodes)}
          titles={titles}
          onConnect={(target) => onConnect(handle.id, target)}
          onDisconnect={onDisconnect}
        />
      ))}
    </fieldset>
  );
};

export const Inspector = (options: InspectorOptions) => {
  const node = options.app.graph.nodes.find((candidate) => candidate.id === options.id);
  return node ? <NodeForm node={node} options={options} /> : null;
};

const NodeForm = ({ node, options }: { node: FlowNode; options: InspectorOptions }) => {
  const { t } = useChosen();
  const typeLabel = useNodeTypeLabel();
  const { app, appId, id, problems, times, text, onChange } = options;
  const data = node.data.node;
  const titles = new Map(app.graph.nodes.map((titled) => [titled.id, titled.data.node.title]));
  const variables = readableVariables(id, app);
  const within: NodeContext = { app, id, variables, titles, appId, times, changeDocument: options.onChangeDocument };
  return (
    <aside className="inspector" aria-label={filled(t.settingsOf, { name: data.title })}>
      <div className="form">
        <h2>{typeLabel(data.type)}</h2>
        {problems.map((problem) => (
          <p key={problem} className="wrong">
            {problem}
          </p>
        ))}
        <Field label={t.title}>
          <input value={data.title} onChange={(event) => onChange({ ...data, title: event.target.value })} />
        </Field>
        {(FIELDS[data.type] ?? []).map((spec, index) => (
          <NodeField
            key={`${id} ${index}`}
            spec={spec}
            data={data}
            onChange={(next) => onChange(next as NodeData)}
            within={within}
          />
        ))}
        {MAY_FAIL.has(data.type) && <FailureForm id={id} data={data} onChange={onChange} />}
        <Branches node={node} options={options} titles={titles} />
        <NodeTest appId={appId} text={text} id={id} variables={variables} titles={titles} />
        <YamlEditor label={t.allOfIt} value={data} isComplete={(value) => !!value.type} onChange={onChange} />
        <button type="button" className="danger" onClick={options.onRemove}>
          {t.removeNode}
        </button>
      </div>
    </aside>
  );
};
