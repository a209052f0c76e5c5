import { describe, expect, test } from "vitest";
import { type JsonObject, read, write } from "../../src/canvas/file";
import { blankPromptApp, blankWorkflow } from "../../src/canvas/templates";
import { Random, seeds } from "../random";
import { APP_FILES, fromYaml, graphOf, isReadable, randomApp, toYaml } from "./graphs";

const byId = (items: JsonObject[]) => new Map(items.map((item) => [String(item.id), item]));

// All that is in `before` must be in `after`, at the same path.
const lostPaths = (before: unknown, after: unknown, path = ""): string[] => {
  if (!before || typeof before !== "object") return Object.is(before, after) ? [] : [path];
  const entries = Object.entries(before);
  if (!after || typeof after !== "object") return [path];
  if (Array.isArray(before) !== Array.isArray(after)) return [path];
  return entries.flatMap(([key, value]) => lostPaths(value, (after as JsonObject)[key], `${path}.${key}`));
};

// What comes of a file that is opened and saved; several tests look at it.
const savedTexts = new Map<string, string>();
const saved = (text: string): string => {
  const known = savedTexts.get(text) ?? write(read(text));
  savedTexts.set(text, known);
  return known;
};

describe("a file that is read and written", () => {
  const files = APP_FILES.filter(([, text]) => isReadable(text));

  test("is one of many", () => {
    expect(files.length).toBeGreaterThan(50);
  });

  test.each(files)("%s is the same the second time", (_, text) => {
    expect(write(read(saved(text)))).toBe(saved(text));
  });

  test.each(files)("%s loses nothing around its graph", (_, text) => {
    const before = fromYaml(text);
    const after = fromYaml(saved(text));
    const withoutGraph = (document: JsonObject) => ({
      ...document,
      workflow: { ...(document.workflow as JsonObject), graph: null },
    });
    expect(lostPaths(withoutGraph(before), withoutGraph(after))).toEqual([]);
  });

  test.each(files)("%s loses nothing of its nodes", (_, text) => {
    const before = fromYaml(text);
    const nodes = (before.workflow as JsonObject | undefined) ? (graphOf(before)?.nodes ?? []) : [];
    const written = byId(graphOf(fromYaml(saved(text))).nodes);
    // The canvas works with whole pixels, and with ids that are texts.
    for (const { id, position, ...node } of nodes) {
      expect(lostPaths(node, written.get(String(id))), `node ${id}`).toEqual([]);
      const { x = 0, y = 0 } = (position ?? {}) as { x?: number; y?: number };
      expect(written.get(String(id))!.position).toEqual({ x: Math.round(x), y: Math.round(y) });
    }
  });

  test("is identical if it has all that the canvas adds", () => {
    for (const seed of seeds(60)) {
      const written = write(read(toYaml(randomApp(new Random(seed)))));
      expect(write(read(written)), `seed ${seed}`).toBe(written);
    }
  });

  test("keeps fields that the canvas does not know", () => {
    for (const seed of seeds(60)) {
      const before = randomApp(new Random(seed));
      const after = fromYaml(write(read(toYaml(before))));
      const edges = byId(graphOf(after).edges);
      const nodes = byId(graphOf(after).nodes);
      for (const node of graphOf(before).nodes) expect(lostPaths(node, nodes.get(String(node.id)))).toEqual([]);
      for (const edge of graphOf(before).edges) expect(lostPaths(edge, edges.get(String(edge.id)))).toEqual([]);
      const graph = { nodes: [], edges: [] };
      const bare = { ...before, workflow: { ...(before.workflow as object), graph: { ...graphOf(before), ...graph } } };
      expect(lostPaths(bare, after), `seed ${seed}`).toEqual([]);
    }
  });
});

describe("a node", () => {
  const graph = (nodes: JsonObject[], edges: JsonObject[] = []) =>
    read(toYaml({ workflow: { graph: { nodes, edges } } })).graph;

  test("has the type and the title that it needs at least", () => {
    const [node] = graph([{ id: 7, data: { type: "code" } }]).nodes;
    expect(node).toMatchObject({ id: "7", type: "step", position: { x: 0, y: 0 } });
    expect(node!.data.node).toEqual({ type: "code", title: "code" });
  });

  test("inside of a container comes after it", () => {
    const nodes = graph([
      { id: "inner", parentId: "outer", data: { type: "code" } },
      { id: "inner of a loop", data: { type: "code", loop_id: "loop" } },
      { id: "outer", data: { type: "iteration" } },
      { id: "loop", data: { type: "loop" } },
    ]).nodes;
    expect(nodes.map((node) => [node.id, node.parentId])).toEqual([
      ["outer", undefined],
      ["loop", undefined],
      ["inner", "outer"],
      ["inner of a loop", "loop"],
    ]);
  });

  test("whose container is not there stands by itself", () => {
    expect(graph([{ id: "a", parentId: "gone", data: {} }]).nodes[0]!.parentId).toBeUndefined();
  });

  test("of a container has a size, also if the file has none", () => {
    expect(graph([{ id: "a", data: { type: "loop" } }]).nodes[0]!.style).toEqual({ width: 460, height: 220 });
  });

  test("that is a note stays one", () => {
    const note = { id: "n", type: "custom-note", data: { text: "hello" }, position: { x: 1, y: 2 } };
    const text = toYaml({ workflow: { graph: { nodes: [note], edges: [] } } });
    expect(read(text).graph.nodes[0]!.type).toBe("note");
    expect(graphOf(fromYaml(write(read(text)))).nodes[0]).toMatchObject(note);
  });
});

describe("an edge", () => {
  const node = (id: string, data: JsonObject = { type: "code" }) => ({ id, data });
  const edges = (nodes: JsonObject[], raw: JsonObject[]) =>
    graphOf(fromYaml(write(read(toYaml({ workflow: { graph: { nodes, edges: raw } } }))))).edges;

  test("to a node that is not there is left out", () => {
    const raw = [
      { source: "a", target: "gone" },
      { source: "gone", target: "a" },
      { source: "a", target: "b" },
    ];
    expect(edges([node("a"), node("b")], raw).map((edge) => edge.id)).toEqual(["a-source-b"]);
  });

  test("of a deadline is shown at its handle, and stays as the file has it", () => {
    const raw = { source: "form", target: "late", sourceHandle: "__timeout__" };
    const text = toYaml({
      workflow: { graph: { nodes: [node("form", { type: "human-input" }), node("late")], edges: [raw] } },
    });
    const app = read(text);
    expect(app.graph.edges[0]!.sourceHandle).toBe("__timeout");
    expect(graphOf(fromYaml(write(app))).edges[0]).toMatchObject(raw);
    // Connected to another branch, it is no deadline any more.
    app.graph.edges[0]!.sourceHandle = "ok";
    expect(graphOf(fromYaml(write(app))).edges[0]!.sourceHandle).toBe("ok");
  });

  test("says what it connects, and in which container", () => {
    const nodes = [
      node("loop", { type: "loop" }),
      { ...node("a"), parentId: "loop" },
      { ...node("b"), parentId: "loop" },
    ];
    expect(edges(nodes, [{ id: "e", source: "a", target: "b", sourceHandle: "" }])).toEqual([
      {
        id: "e",
        source: "a",
        target: "b",
        sourceHandle: "source",
        targetHandle: "target",
        type: "custom",
        data: { sourceType: "code", targetType: "code", isInIteration: false, isInLoop: true },
      },
    ]);
  });
});

describe("a file that is no app", () => {
  test.each([
    "",
    "[]",
    "text",
    "workflow: 3",
    "workflow:\n  graph: [1, 2]",
    "workflow:\n  graph:\n    nodes: [null, 3]",
  ])("%j has an empty graph", (text) => {
    expect(read(text).graph).toEqual({ nodes: [], edges: [] });
  });

  test.each(["a: [", "a: b: c", "\ta: 1", "a: *missing"])("%j is refused, since it is no YAML", (text) => {
    expect(() => read(text)).toThrow();
  });
});

describe("a new app", () => {
  test.each(["workflow", "advanced-chat"] as const)("of mode %s has a start node", (mode) => {
    const app = read(blankWorkflow('My "app": 1', mode));
    expect(app.document.app).toMatchObject({ name: 'My "app": 1', mode });
    expect(app.graph.nodes.map((node) => node.data.node.type)).toEqual(["start"]);
  });

  test("with one prompt is a form, a chat or an agent", () => {
    const settings = (mode: string) => fromYaml(blankPromptApp("x", mode)).model_config as JsonObject;
    expect(settings("completion")).toMatchObject({ pre_prompt: "{{query}}", user_input_form: [{}] });
    expect(settings("chat")).not.toHaveProperty("agent_mode");
    expect(settings("agent-chat")).toMatchObject({ agent_mode: { enabled: true } });
  });
});
