// The form of an app of mode `agent`: its file has one agent, and no nodes.
import { isMap } from "yaml";
import { useChosen } from "../settings";
import { yamlDocument } from "../yaml";
import { PACKAGE_FIELDS } from "./agent-fields";
import { packageOf, packagesOf } from "./agent-job";
import { getIn, type NodeContext } from "./controls";
import { asObject, type JsonObject } from "./file";
import { NodeField } from "./node-fields";

// The agent that the app runs: the one that it names, or the only one.
export const agentOfApp = (content: JsonObject): [reference: string, agent: JsonObject] | null => {
  const names = packagesOf(content).map(([reference]) => reference);
  const named = asObject(content.agent).package_ref;
  return packageOf(content, { package_ref: named || (names.length === 1 ? names[0] : "") });
};

// The text with another value at a path of the agent. Everything around it keeps its layout and its comments.
export const withAgentValue = (text: string, reference: string, path: string, agent: JsonObject): string => {
  const document = yamlDocument(text);
  const steps = ["agent_packages", reference, ...path.split(".")];
  // Objects on the way may be missing or empty; then the first of them is written as a whole.
  let depth = 2;
  while (depth < steps.length - 1 && isMap(document.getIn(steps.slice(0, depth + 1)))) depth++;
  const value = getIn(agent, steps.slice(2, depth + 1).join("."));
  document.setIn(steps.slice(0, depth + 1), document.createNode(value));
  return document.toString({ lineWidth: 0 });
};

export const AgentAppForm = ({
  id,
  text,
  onChange,
}: {
  id: string;
  text: string;
  onChange: (text: string) => void;
}) => {
  const { t } = useChosen();
  const document = yamlDocument(text);
  const content = document.errors.length ? {} : asObject(document.toJS());
  const found = agentOfApp(content);
  if (!found) return null;
  const [reference, agent] = found;
  const within: NodeContext = {
    app: { document: content, graph: { nodes: [], edges: [] } },
    id: "",
    variables: [],
    titles: new Map(),
    appId: id,
    times: [],
    changeDocument: () => undefined,
  };
  return (
    <section className="form" aria-label={t.agentSettings}>
      {PACKAGE_FIELDS.map((spec) => (
        <NodeField
          key={spec.path}
          spec={spec}
          data={agent}
          onChange={(next) => onChange(withAgentValue(text, reference, spec.path, next))}
          within={within}
        />
      ))}
    </section>
  );
};
