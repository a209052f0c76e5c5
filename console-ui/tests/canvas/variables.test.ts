import { describe, expect, test } from "vitest";
import { type JsonObject, read } from "../../src/canvas/file";
import { handles } from "../../src/canvas/handles";
import { newNodeData } from "../../src/canvas/templates";
import { outputs, readableVariables } from "../../src/canvas/variables";
import { Random, seeds } from "../random";
import { randomApp, toYaml } from "./graphs";

const selectors = (id: string, document: JsonObject) =>
  readableVariables(id, read(toYaml(document))).map((variable) => variable.selector.join("."));

const app = (nodes: JsonObject[], edges: [string, string][], workflow: JsonObject = {}, mode = "workflow") => ({
  app: { mode },
  workflow: { ...workflow, graph: { nodes, edges: edges.map(([source, target]) => ({ source, target })) } },
});
const node = (id: string, type: string, more: JsonObject = {}, parentId = "") => ({
  id,
  ...(parentId ? { parentId } : {}),
  data: { type, title: id, ...more },
});

describe("the outputs of a node", () => {
  const cases: [string, JsonObject, string[]][] = [
    ["start", { variables: [{ variable: "q", type: "paragraph" }] }, ["q:paragraph"]],
    ["code", { outputs: { n: { type: "number" } } }, ["n:number"]],
    [
      "llm",
      { structured_output_enabled: true },
      ["text:string", "reasoning_content:string", "usage:object", "structured_output:object"],
    ],
    [
      "parameter-extractor",
      { parameters: [{ name: "city", type: "string" }] },
      ["__is_success:number", "__reason:string", "city:string"],
    ],
    [
      "human-input",
      { inputs: [{ output_variable_name: "ok" }] },
      ["__action_id:string", "__rendered_content:string", "ok:string"],
    ],
    ["loop", { loop_variables: [{ label: "i", var_type: "number" }] }, ["i:number"]],
    ["trigger-webhook", { headers: [{ name: "x-token", type: "string" }] }, ["x_token:string"]],
    ["trigger-plugin", { output_schema: { properties: { id: {}, at: { type: "number" } } } }, ["id:any", "at:number"]],
    ["unknown", {}, []],
  ];
  test.each(cases)("of type %s", (type, settings, expected) => {
    const variables = outputs("n", { type, title: "", ...settings });
    expect(variables.map(({ selector, kind }) => `${selector.slice(1).join(".")}:${kind}`)).toEqual(expected);
    for (const { selector } of variables) expect(selector[0]).toBe("n");
  });

  test("are none if the settings are not what they should be", () => {
    for (const type of ["start", "code", "loop", "parameter-extractor", "trigger-webhook", "trigger-plugin"])
      for (const value of [null, 3, "text", [null, 1], { a: null }])
        expect(() => outputs("n", { type, title: "", variables: value, outputs: value, body: value })).not.toThrow();
  });
});

describe("what a node can read", () => {
  test("are the outputs of the nodes before it, however far, and not of those after it", () => {
    const nodes = ["a", "b", "c", "d"].map((id) => node(id, "template-transform"));
    const document = app(nodes, [
      ["a", "b"],
      ["b", "c"],
      ["c", "d"],
    ]);
    const read = selectors("c", document);
    expect(read).toEqual(expect.arrayContaining(["a.output", "b.output"]));
    expect(read).not.toContain("c.output");
    expect(read).not.toContain("d.output");
  });

  test("inside of an iteration is its item, and what is before the iteration", () => {
    const nodes = [node("a", "template-transform"), node("each", "iteration"), node("b", "code", {}, "each")];
    const inside = selectors("b", app(nodes, [["a", "each"]]));
    expect(inside).toEqual(expect.arrayContaining(["each.item", "each.index", "a.output"]));
    expect(inside).not.toContain("each.output");
    const after = app([...nodes, node("c", "code")], [["each", "c"]]);
    expect(selectors("c", after)).toContain("each.output");
    expect(selectors("c", after)).not.toContain("each.item");
  });

  test("are the app's own variables", () => {
    const workflow = {
      environment_variables: [{ name: "key", value_type: "secret" }],
      conversation_variables: [{ name: "mood" }],
    };
    const plain = selectors("a", app([node("a", "code")], [], workflow));
    expect(plain).toEqual(["sys.files", "sys.user_id", "env.key", "conversation.mood"]);
    const chat = selectors("a", app([node("a", "code")], [], workflow, "advanced-chat"));
    expect(chat).toEqual(expect.arrayContaining(["sys.query", "sys.conversation_id", "sys.dialogue_count"]));
  });

  test("is found in any graph, with circles too", () => {
    const scopes = ["sys", "env", "conversation"];
    for (const seed of seeds(40)) {
      const document = randomApp(new Random(seed));
      const ids = read(toYaml(document)).graph.nodes.map(({ id }) => id);
      for (const id of ids)
        for (const selector of selectors(id, document))
          expect([...scopes, ...ids], `seed ${seed}, node ${id}`).toContain(selector.split(".")[0]);
    }
  });
});

describe("the handles of a node", () => {
  const ids = (data: JsonObject) => handles({ type: "", title: "", ...data }).map((handle) => handle.id);

  test("are its branches", () => {
    expect(ids({ type: "if-else", cases: [{ case_id: "a" }, { id: "b" }] })).toEqual(["a", "b", "false"]);
    expect(ids({ type: "if-else" })).toEqual(["true", "false"]);
    expect(ids({ type: "question-classifier", classes: [{ id: "1" }, { id: "2" }] })).toEqual(["1", "2"]);
    expect(ids({ type: "human-input", user_actions: [{ id: "ok" }] })).toEqual(["ok", "__timeout"]);
  });

  test("are none at an end", () => {
    expect(ids({ type: "end" })).toEqual([]);
    expect(ids({ type: "loop-end" })).toEqual([]);
    expect(ids({ type: "answer" })).toEqual(["source"]);
  });

  test("have one more for failures, if the node has such a branch", () => {
    expect(ids({ ...newNodeData("llm", "", false), error_strategy: "fail-branch" })).toEqual(["source", "fail-branch"]);
    expect(ids({ type: "question-classifier", classes: [], error_strategy: "fail-branch" })).toEqual(["fail-branch"]);
  });

  test("are named by labels that people read", () => {
    const labels = handles({
      type: "if-else",
      title: "",
      cases: [{ case_id: "a" }, { case_id: "b" }, { case_id: "c" }],
    });
    expect(labels.map((handle) => handle.label)).toEqual(["IF", "ELIF 1", "ELIF 2", "ELSE"]);
  });
});
