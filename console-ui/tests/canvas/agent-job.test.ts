import { createElement } from "react";
import { describe, expect, test } from "vitest";
import SCHEMAS from "../../../tests/data/declared-outputs.json";
import { AgentAppForm, agentOfApp, withAgentValue } from "../../src/canvas/agent-app-form";
import { PACKAGE_FIELDS } from "../../src/canvas/agent-fields";
import {
  addPackage,
  agentKey,
  declaredKinds,
  isAgentJob,
  modelOfSoul,
  nodesOfPackage,
  outputsSchema,
  packageOf,
  packagesOf,
  pathOfReference,
  referenceTo,
  replacePackage,
  soulWithModel,
  withAgent,
} from "../../src/canvas/agent-job";
import { getIn, type NodeContext, setIn } from "../../src/canvas/controls";
import { FIELDS, type FieldSpec } from "../../src/canvas/fields";
import { type AppFile, asObject, asObjects, type JsonObject, type NodeData, read, write } from "../../src/canvas/file";
import { NodeField } from "../../src/canvas/node-fields";
import { AGENT_JOB, newNodeData } from "../../src/canvas/templates";
import { outputs } from "../../src/canvas/variables";
import { draw, T } from "../drawing";
import { APP_FILES, fromYaml, graphOf } from "./graphs";

const fileNamed = (name: string): string => APP_FILES.find(([path]) => path.endsWith(name))![1];
const FILES = [
  "dsl-0.7/agent-workflow.yml",
  "dsl-0.7/agent-chatflow.yml",
  "dsl-0.7/agent-by-id.yml",
  "dsl-own/agent-jobs.yml",
];
const jobsIn = (app: AppFile): NodeData[] =>
  app.graph.nodes.map(({ data }) => data.node).filter((node) => isAgentJob(node));

const contextOf = (app: AppFile, changeDocument: (document: JsonObject) => void = () => undefined): NodeContext => ({
  app,
  id: "node",
  variables: [],
  titles: new Map(),
  appId: "a1",
  times: [],
  changeDocument,
});

const allSpecs = (specs: FieldSpec[]): FieldSpec[] => specs.flatMap((spec) => [spec, ...allSpecs(spec.of ?? [])]);

describe.each(FILES)("the agents of %s", (name) => {
  const text = fileNamed(name);

  test("are recognised, and shown with all that the file says of them", () => {
    const app = read(text);
    const jobs = jobsIn(app);
    expect(jobs.length).toBeGreaterThan(0);
    for (const job of jobs)
      for (const spec of FIELDS.agent!) {
        const html = draw(
          createElement(NodeField, { spec, data: job, within: contextOf(app), onChange: () => undefined }),
        );
        // Without declared outputs there is no schema.
        if (spec.kind !== "outputsSchema") expect(html !== "", spec.label).toBe(spec.when!(job));
      }
  });

  // What a form writes when somebody chooses what is chosen already must be what the file has.
  test("lose nothing to their forms", () => {
    const app = read(text);
    for (const job of jobsIn(app)) {
      expect(withAgent(job.agent_binding, agentKey(job.agent_binding))).toEqual(job.agent_binding);
      for (const reference of asObjects(asObject(job.agent_job).previous_node_output_refs))
        expect(referenceTo(reference, pathOfReference(reference))).toMatchObject(reference);
      for (const spec of FIELDS.agent!.filter(({ path }) => path)) {
        const value = getIn(job, spec.path);
        if (value !== undefined) expect(setIn(job, spec.path, value), spec.path).toEqual(job);
      }
      const agent = packageOf(app.document, job.agent_binding);
      if (!agent) continue;
      expect(replacePackage(app.document, agent[0], agent[1])).toEqual(app.document);
      const model = getIn(agent[1], "soul.model");
      expect(soulWithModel(model, modelOfSoul(model))).toEqual(model);
    }
  });

  test("are the same after the canvas", () => {
    const before = fromYaml(text);
    const after = fromYaml(write(read(text)));
    expect(after.agent_packages).toEqual(before.agent_packages);
    const nodes = new Map(graphOf(after).nodes.map((node) => [String(node.id), node.data]));
    for (const node of graphOf(before).nodes) expect(nodes.get(String(node.id))).toEqual(node.data);
  });
});

test("nodes are of version 2 as the server decides", () => {
  expect(isAgentJob({ agent_node_kind: "dify_agent", agent_strategy_name: "x" })).toBe(true);
  expect(isAgentJob({ agent_strategy_name: "x", version: "2" })).toBe(false);
  for (const data of [{ version: 2 }, { version: "2" }, { agent_job: {} }, { agent_binding: null }])
    expect(isAgentJob(data), JSON.stringify(data)).toBe(true);
  for (const data of [{}, { version: "1" }, { agent_strategy_name: "react" }])
    expect(isAgentJob(data), JSON.stringify(data)).toBe(false);
});

describe("another agent", () => {
  const byApp = { binding_type: "roster_agent", agent_id: "app:1", current_snapshot_id: "v", unknown: 1 };

  test("replaces the reference, and what belongs to it", () => {
    expect(agentKey(byApp)).toBe("app:app:1");
    expect(withAgent(byApp, "package:agent_1")).toEqual({
      binding_type: "inline_agent",
      package_ref: "agent_1",
      unknown: 1,
    });
    expect(withAgent({ binding_type: "inline_agent", package_ref: "agent_1" }, "app:x:y")).toEqual({
      binding_type: "roster_agent",
      agent_id: "x:y",
    });
    expect(withAgent(undefined, "package:a")).toEqual({ binding_type: "inline_agent", package_ref: "a" });
    expect(agentKey(null)).toBe("");
  });

  test("is added under a name of its own", () => {
    let document: JsonObject = { app: { name: "x" }, agent_packages: { agent_2: { soul: {} } } };
    const references: string[] = [];
    for (let count = 0; count < 3; count++) {
      const added = addPackage(document, `Agent ${count}`);
      document = added.document;
      references.push(added.reference);
    }
    expect(new Set(references).size).toBe(3);
    expect(packagesOf(document).map(([, name]) => name)).toEqual(["agent_2", "Agent 0", "Agent 1", "Agent 2"]);
    expect(document.app).toEqual({ name: "x" });
  });

  test("shared by several nodes says so", () => {
    const app = read(fileNamed("dsl-0.7/agent-workflow.yml"));
    expect(nodesOfPackage(app.graph, "agent_2")).toBe(2);
    const job = jobsIn(app).find(({ title }) => title === "Write")!;
    const html = draw(
      createElement(NodeField, {
        spec: FIELDS.agent!.find(({ kind }) => kind === "agent")!,
        data: job,
        within: contextOf(app),
        onChange: () => undefined,
      }),
    );
    expect(html).toContain("2 nodes run this agent.");
    expect(html).toContain("You write.");
    expect(html).toContain('<option value="package:agent_2" selected="">Writer (in this file)');
  });

  test("that is not here stays chosen; an app of this server is named", () => {
    const app = read(fileNamed("dsl-0.7/agent-by-id.yml"));
    const [job] = jobsIn(app);
    const spec = FIELDS.agent!.find(({ kind }) => kind === "agent")!;
    const id = String(asObject(job!.agent_binding).agent_id);
    const drawn = (apps: object[]) =>
      draw(createElement(NodeField, { spec, data: job!, within: contextOf(app), onChange: () => undefined }), {
        data: [[["apps"], apps]],
      });
    expect(drawn([])).toContain(`selected="">${id} (not available)`);
    expect(drawn([{ id, name: "Desk", mode: "agent" }])).toContain('selected="">Desk (app on this server)');
    // A chat is no agent.
    expect(drawn([{ id: "c", name: "Chat", mode: "chat" }])).not.toContain("Chat (app");
  });
});

describe("the model of an agent", () => {
  const MODEL = {
    plugin_id: "langgenius/openai",
    model_provider: "langgenius/openai/openai",
    model: "gpt-4o",
    credential_ref: null,
    model_settings: { temperature: 0.1, top_p: null },
  };

  test("keeps settings that were left alone, and what the form does not know", () => {
    expect(modelOfSoul(MODEL).completion_params).toEqual({ temperature: 0.1 });
    const changed = soulWithModel(MODEL, { ...modelOfSoul(MODEL), completion_params: {} });
    expect(changed).toEqual({ ...MODEL, model_settings: { top_p: null } });
  });

  test("of another provider has no plugin of the first", () => {
    const changed = soulWithModel(MODEL, { provider: "anthropic", name: "claude", completion_params: {} });
    expect(changed).toMatchObject({ model_provider: "anthropic", plugin_id: "", model: "claude" });
  });

  test("may be the default, which has no name", () => {
    expect(soulWithModel(null, { provider: "", name: "default", completion_params: {} })).toEqual({
      model: "",
      model_settings: {},
    });
    expect(modelOfSoul(null)).toEqual({ provider: "", name: "", completion_params: {} });
  });
});

describe("references to earlier outputs", () => {
  test.each([
    [{ selector: ["a", "b"], node_id: "x", output: "y" }, ["a", "b"]],
    [{ selector: [], variable_selector: ["a", "b", "c"] }, ["a", "b", "c"]],
    [{ value_selector: ["a", "b"] }, ["a", "b"]],
    [{ node_id: "a", name: "b" }, ["a", "b"]],
    [{ node_id: "a" }, []],
    [{}, []],
  ])("of %j are %j", (reference, path) => {
    expect(pathOfReference(reference)).toEqual(path);
  });

  test("have one meaning once they are chosen again", () => {
    const changed = referenceTo({ variable_selector: ["old", "x"], name: "x", unknown: 1 }, ["new", "a.b"]);
    expect(changed).toEqual({ selector: ["new", "a.b"], node_id: "new", output: "a.b", unknown: 1 });
    expect(pathOfReference(changed)).toEqual(["new", "a.b"]);
  });
});

describe("declared outputs", () => {
  // The server's tests read the same file.
  test.each(SCHEMAS.map(({ outputs: declared, schema }, index) => [index, declared, schema] as const))(
    "%i have the schema that the server asks models for",
    (_, declared, schema) => {
      expect(outputsSchema(declared as JsonObject[])).toEqual(schema);
    },
  );

  const job = (declared: JsonObject[]): NodeData => ({
    type: "agent",
    title: "Agent",
    agent_node_kind: "dify_agent",
    agent_job: { declared_outputs: declared },
  });

  test("are what later nodes can read", () => {
    const declared = [
      { name: "a" },
      { name: "b", type: "array", array_item: { type: "number" } },
      { name: "c", type: "array" },
      { name: "d", type: "file" },
    ];
    expect(declaredKinds(job(declared))).toEqual([
      ["a", "string"],
      ["b", "array[number]"],
      ["c", "array[object]"],
      ["d", "file"],
    ]);
    expect(outputs("n", job(declared)).map(({ selector }) => selector[1])).toEqual(["usage", "a", "b", "c", "d"]);
    expect(outputs("n", job([])).map(({ selector }) => selector[1])).toEqual(["text", "files", "json"]);
    const strategy = {
      type: "agent",
      title: "",
      agent_strategy_name: "react",
      agent_job: { declared_outputs: declared },
    };
    expect(outputs("n", strategy).map(({ selector }) => selector[1])).toEqual(["text", "files", "json"]);
  });

  test("that do not say so are required", () => {
    const spec = FIELDS.agent!.find(({ kind, path }) => kind === "list" && path.endsWith("declared_outputs"))!;
    const html = draw(
      createElement(NodeField, {
        spec,
        data: job([{ name: "a" }]),
        within: contextOf({ document: {}, graph: { nodes: [], edges: [] } }),
        onChange: () => undefined,
      }),
    );
    expect(html).toContain('checked=""');
    expect(html).toContain(T.fields.ifItDoesNotFit);
  });
});

describe("a new agent node with a task", () => {
  test("is of version 2, and reads the user's message in a chat", () => {
    const data = newNodeData(AGENT_JOB, "Agent", true);
    expect(data.type).toBe("agent");
    expect(isAgentJob(data)).toBe(true);
    expect(asObject(data.agent_job).workflow_prompt).toBe("{{#sys.query#}}");
    expect(isAgentJob(newNodeData("agent", "Agent", true))).toBe(false);
  });

  test("has labels for all that can be set of its agent", () => {
    for (const spec of allSpecs(PACKAGE_FIELDS)) expect(T.fields, spec.path).toHaveProperty(spec.label);
    for (const spec of allSpecs(FIELDS.agent!).filter(({ kind }) => kind === "select"))
      expect(spec.options!.length, spec.path).toBeGreaterThan(1);
  });
});

describe("an app that is an agent", () => {
  const FILE = "dsl-0.7/agent-app.yml";

  test("has the form of its agent", () => {
    const html = draw(createElement(AgentAppForm, { id: "a1", text: fileNamed(FILE), onChange: () => undefined }));
    for (const text of [T.fields.systemPrompt, T.fields.tools, T.fields.contacts]) expect(html).toContain(text);
    for (const text of ["", "app: [", "agent_packages: {a: {}, b: {}}"])
      expect(draw(createElement(AgentAppForm, { id: "a1", text, onChange: () => undefined }))).toBe("");
  });

  test("runs the agent that it names, or the only one", () => {
    const agents = { a: { soul: 1 }, b: { soul: 2 } };
    expect(agentOfApp({ agent: { package_ref: "b" }, agent_packages: agents })).toEqual(["b", { soul: 2 }]);
    expect(agentOfApp({ agent_packages: { a: agents.a } })).toEqual(["a", { soul: 1 }]);
    expect(agentOfApp({ agent_packages: agents })).toBeNull();
    expect(agentOfApp({ agent: { package_ref: "gone" }, agent_packages: { a: agents.a } })).toBeNull();
  });

  test("is the same if a form writes what there is, and changes at one place otherwise", () => {
    const text = fileNamed(FILE);
    const [reference, agent] = agentOfApp(fromYaml(text))!;
    for (const { path } of PACKAGE_FIELDS) {
      const value = getIn(agent, path);
      if (value !== undefined)
        expect(fromYaml(withAgentValue(text, reference, path, agent)), path).toEqual(fromYaml(text));
      const changed = setIn(agent, path, "new");
      const expected = replacePackage(fromYaml(text), reference, changed);
      expect(fromYaml(withAgentValue(text, reference, path, changed)), path).toEqual(expected);
    }
  });

  test("keeps comments, and gets objects that were missing", () => {
    const text = "# ours\nagent_packages:\n  a: # the agent\n    soul:\n      prompt: null\n";
    const agent = setIn({ soul: { prompt: null } }, "soul.prompt.system_prompt", "Be brief.");
    const written = withAgentValue(text, "a", "soul.prompt.system_prompt", agent);
    expect(written).toContain("# ours");
    expect(written).toContain("# the agent");
    expect(fromYaml(written)).toEqual({ agent_packages: { a: agent } });
    const contacts = setIn(agent, "soul.human.contacts", []);
    expect(fromYaml(withAgentValue(written, "a", "soul.human.contacts", contacts))).toEqual({
      agent_packages: { a: contacts },
    });
  });
});
