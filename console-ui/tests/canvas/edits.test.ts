import { describe, expect, test } from "vitest";
import { duplicate, subgraph } from "../../src/canvas/copied-nodes";
import { FIELDS } from "../../src/canvas/fields";
import { CONTAINERS, type Graph, INNER, type NodeData, ROOTS, read, write } from "../../src/canvas/file";
import { addEdge, merge, newEdge, removeEdge, removeNode, replaceNodeData } from "../../src/canvas/graph-edits";
import { layOut } from "../../src/canvas/layout";
import { newNode } from "../../src/canvas/new-node";
import { redo, remember, type Timeline, undo, withoutFuture } from "../../src/canvas/timeline";
import { Random, seeds } from "../random";
import { randomApp, toYaml } from "./graphs";

const CENTER = { x: 10, y: 20 };
const ADDABLE = Object.keys(FIELDS).filter((type) => !INNER.includes(type));

const add = (graph: Graph, type: string, selectedId = "", isChat = false): Graph =>
  merge(graph, newNode(type, graph, { typeLabel: type, selectedId, isChat, position: CENTER }));

const randomGraph = (random: Random): Graph => read(toYaml(randomApp(random))).graph;

const EMPTY: Graph = { nodes: [], edges: [] };
const titles = (graph: Graph) => graph.nodes.map((node) => node.data.node.title);
const links = (graph: Graph) => graph.edges.map((edge) => [edge.source, edge.sourceHandle, edge.target]);

// An edit as somebody may make it, anywhere in the graph.
const randomEdit = (graph: Graph, random: Random): Graph => {
  const ids = graph.nodes.map((node) => node.id);
  const id = ids.length ? random.pick(ids) : "";
  const edits: (() => Graph)[] = [
    () => add(graph, random.pick(ADDABLE), id, random.boolean()),
    () => (ids.length ? addEdge(graph, newEdge({ source: id, target: random.pick(ids) })) : graph),
    () => removeNode(graph, id),
    () => (graph.edges.length ? removeEdge(graph, random.pick(graph.edges).id) : graph),
    () => replaceNodeData(graph, id, { type: "code", title: `Title ${random.integer(0, 99)}` }),
    () => merge(graph, duplicate(subgraph(graph, new Set([id])))),
    () => layOut(graph),
  ];
  return random.pick(edits)();
};

const expectSound = (graph: Graph, context: string) => {
  const ids = new Set(graph.nodes.map((node) => node.id));
  expect(ids.size, `${context}: ids are unique`).toBe(graph.nodes.length);
  for (const edge of graph.edges) {
    expect(ids.has(edge.source), `${context}: edge from a node`).toBe(true);
    expect(ids.has(edge.target), `${context}: edge to a node`).toBe(true);
  }
  for (const node of graph.nodes) {
    if (node.parentId) expect(ids.has(node.parentId), `${context}: container of a node`).toBe(true);
    expect(Number.isFinite(node.position.x + node.position.y), `${context}: position`).toBe(true);
  }
};

describe("edits in any order", () => {
  test("leave a sound graph, which can be written and read", () => {
    for (const seed of seeds(40)) {
      const random = new Random(seed);
      let graph = randomGraph(random);
      for (let step = 0; step < 15; step++) {
        graph = randomEdit(graph, random);
        expectSound(graph, `seed ${seed}, step ${step}`);
      }
      // A file has the containers first, so the order may change once, but nothing else.
      const written = read(write({ document: {}, graph }));
      const settled = write(written);
      expect(write(read(settled)), `seed ${seed}`).toBe(settled);
      const byId = ({ nodes }: Graph) => new Map(nodes.map((node) => [node.id, node.data.node]));
      expect(byId(written.graph), `seed ${seed}`).toEqual(byId(graph));
    }
  });

  test("can all be undone and redone", () => {
    for (const seed of seeds(40)) {
      const random = new Random(seed);
      let timeline: Timeline<Graph> = { past: [], future: [] };
      const states = [randomGraph(random)];
      for (let step = 0; step < 20; step++) {
        timeline = withoutFuture(remember(timeline, states.at(-1)!));
        states.push(randomEdit(states.at(-1)!, random));
      }
      let current = states.at(-1)!;
      const walk = (step: typeof undo<Graph>) => {
        const restored = step(timeline, current)!;
        timeline = restored.timeline;
        current = restored.state;
      };
      for (const expected of states.slice(0, -1).reverse()) {
        walk(undo);
        expect(current, `seed ${seed}, undo`).toBe(expected);
      }
      expect(undo(timeline, current)).toBeNull();
      for (const expected of states.slice(1)) {
        walk(redo);
        expect(current, `seed ${seed}, redo`).toBe(expected);
      }
      expect(redo(timeline, current)).toBeNull();
    }
  });

  test("do not change the graph that they start from", () => {
    for (const seed of seeds(50)) {
      const random = new Random(seed);
      const graph = randomGraph(random);
      const before = structuredClone(graph);
      for (let step = 0; step < 10; step++) randomEdit(graph, random);
      expect(graph, `seed ${seed}`).toEqual(before);
    }
  });
});

describe("the timeline", () => {
  test("forgets what was undone after another edit", () => {
    const undone = undo({ past: [1, 2], future: [] }, 3)!;
    expect(undone).toEqual({ state: 2, timeline: { past: [1], future: [3] } });
    expect(withoutFuture(remember(undone.timeline, 2))).toEqual({ past: [1, 2], future: [] });
  });

  test("keeps a hundred steps", () => {
    let timeline: Timeline<number> = { past: [], future: [] };
    for (let state = 0; state < 250; state++) timeline = remember(timeline, state);
    expect(timeline.past).toEqual(Array.from({ length: 100 }, (_, index) => 150 + index));
  });
});

describe("a new node", () => {
  test("stands in the middle if no node is selected", () => {
    const graph = add(EMPTY, "llm");
    expect(graph.nodes[0]).toMatchObject({ position: CENTER, data: { node: { type: "llm", title: "llm" } } });
    expect(graph.edges).toEqual([]);
  });

  test("has a title of its own", () => {
    let graph = EMPTY;
    for (let count = 0; count < 3; count++) graph = add(graph, "llm");
    expect(titles(graph)).toEqual(["llm", "llm 2", "llm 3"]);
  });

  test("comes after the selected one", () => {
    const first = add(EMPTY, "if-else");
    const [selected] = first.nodes;
    const graph = add(first, "code", selected!.id);
    const added = graph.nodes[1]!;
    expect(added.position).toEqual({ x: CENTER.x + 300, y: CENTER.y });
    expect(links(graph)).toEqual([[selected!.id, "true", added.id]]);
  });

  test.each(["end", "loop-end"])("is not connected after %s", (type) => {
    const first = add(EMPTY, type);
    expect(add(first, "code", first.nodes[0]!.id).edges).toEqual([]);
  });

  test.each(ROOTS)("that starts a run is not connected: %s", (type) => {
    const first = add(EMPTY, "llm");
    expect(add(first, type, first.nodes[0]!.id).edges).toEqual([]);
  });

  test.each(CONTAINERS)("in an empty %s comes after the start inside", (type) => {
    const container = add(EMPTY, type);
    const [outer, start] = container.nodes;
    expect(start).toMatchObject({
      id: `${outer!.id}start`,
      parentId: outer!.id,
      data: { node: { type: `${type}-start` } },
    });
    expect(outer!.data.node.start_node_id).toBe(start!.id);
    const graph = add(container, "code", outer!.id);
    const inner = graph.nodes[2]!;
    expect(inner.parentId).toBe(outer!.id);
    expect(inner.data.node[`${type}_id`]).toBe(outer!.id);
    expect(links(graph)).toEqual([[start!.id, "source", inner.id]]);
    // The container is no longer empty: the next node comes after it.
    expect(add(graph, "code", outer!.id).nodes[3]!.parentId).toBeUndefined();
    // But next to a node inside, it is inside.
    expect(add(graph, "code", inner.id).nodes[3]!.parentId).toBe(outer!.id);
  });
});

describe("an edge", () => {
  test("is added once", () => {
    const graph = add(add(EMPTY, "llm"), "code");
    const [source, target] = graph.nodes.map((node) => node.id) as [string, string];
    const connected = addEdge(graph, newEdge({ source, target, sourceHandle: null }));
    expect(links(connected)).toEqual([[source, "source", target]]);
    expect(addEdge(connected, newEdge({ source, target }))).toBe(connected);
    expect(removeEdge(connected, connected.edges[0]!.id)).toEqual(graph);
  });
});

describe("a node that is removed", () => {
  test("takes what is inside and its edges with it", () => {
    let graph = add(EMPTY, "llm");
    const outside = graph.nodes[0]!.id;
    graph = add(graph, "loop", outside);
    const loop = graph.nodes[1]!.id;
    graph = add(graph, "code", loop);
    expect([graph.nodes.length, graph.edges.length]).toEqual([4, 2]);
    const remaining = removeNode(graph, loop);
    expect(remaining.nodes.map((node) => node.id)).toEqual([outside]);
    expect(remaining.edges).toEqual([]);
  });
});

describe("data of a node", () => {
  test("is replaced, and what the file has around it stays", () => {
    const raw = { id: "a", data: { type: "code", title: "A" }, height: 90, position: { x: 1, y: 2 } };
    const { graph } = read(toYaml({ workflow: { graph: { nodes: [raw], edges: [] } } }));
    const data: NodeData = { type: "code", title: "B", code: "x" };
    const text = write({ document: {}, graph: replaceNodeData(graph, "a", data) });
    expect(text).toContain("height: 90");
    expect(read(text).graph.nodes[0]!.data.node).toEqual(data);
  });
});

describe("a copy", () => {
  test("has new ids, and edges among the copied nodes alone", () => {
    for (const seed of seeds(40)) {
      const random = new Random(seed);
      const graph = randomGraph(random);
      const ids = new Set(graph.nodes.filter(() => random.boolean()).map((node) => node.id));
      const copied = subgraph(graph, ids);
      const pasted = duplicate(copied);
      expect(pasted.nodes.length, `seed ${seed}`).toBe(copied.nodes.length);
      expect(pasted.edges.length, `seed ${seed}`).toBe(copied.edges.length);
      expectSound(merge(graph, pasted), `seed ${seed}`);
      for (const [index, node] of pasted.nodes.entries()) {
        const original = copied.nodes[index]!;
        expect(node.id).not.toBe(original.id);
        expect(node.data.node).toEqual({ ...original.data.node, title: `${original.data.node.title} 2` });
      }
    }
  });
});

describe("the layout", () => {
  test("goes from left to right along the edges", () => {
    let graph = add(EMPTY, "start");
    for (let count = 0; count < 5; count++) graph = add(graph, "code", graph.nodes.at(-1)!.id);
    const positions = layOut(graph).nodes.map((node) => node.position.x);
    expect(positions).toEqual([...positions].sort((a, b) => a - b));
    expect(new Set(positions).size).toBe(positions.length);
  });

  test("gives a container the room that its inside takes", () => {
    let graph = add(EMPTY, "iteration");
    const container = graph.nodes[0]!.id;
    for (let count = 0; count < 4; count++)
      graph = add(graph, "code", graph.nodes.length > 2 ? graph.nodes.at(-1)!.id : container);
    const { nodes } = layOut(graph);
    const { width, height } = nodes[0]!.style as { width: number; height: number };
    for (const node of nodes.filter((inner) => inner.parentId === container)) {
      expect(node.position.x).toBeGreaterThan(0);
      expect(node.position.x + 220).toBeLessThan(width);
      expect(node.position.y + 76).toBeLessThan(height);
    }
  });

  test("does not depend on where the nodes were", () => {
    for (const seed of seeds(30)) {
      const graph = randomGraph(new Random(seed));
      const once = layOut(graph);
      const positions = (laidOut: Graph) => laidOut.nodes.map((node) => node.position);
      expect(positions(layOut(once)), `seed ${seed}`).toEqual(positions(once));
    }
  });
});
