// Graphs for tests: those of real apps, and random ones.
import { FIELDS } from "../../src/canvas/fields";
import { CONTAINERS, type JsonObject, read } from "../../src/canvas/file";
import { readYaml, writeYaml } from "../../src/yaml";
import type { Random } from "../random";

// Files that people published, and our own of newer shapes, by their path.
export const APP_FILES = Object.entries(
  import.meta.glob<string>("../../../tests/data/{dsl,dsl-0.7,dsl-own}/**/*.yml", {
    query: "?raw",
    import: "default",
    eager: true,
  }),
);

export const isReadable = (text: string): boolean => {
  try {
    read(text);
    return true;
  } catch {
    return false;
  }
};

const NODE_TYPES = Object.keys(FIELDS).filter((type) => !type.endsWith("-start"));

const randomValue = (random: Random, depth = 0): unknown => {
  const scalars = ["", "text", "ü: 世界\nline # no comment", "yes", "0123", 0, -1.5, 1e21, true, false, null];
  if (depth > 2 || random.next() < 0.6) return random.pick(scalars);
  if (random.boolean()) return random.list(3, () => randomValue(random, depth + 1));
  return Object.fromEntries(random.list(3, (index) => [`key ${index}`, randomValue(random, depth + 1)]));
};

const randomNode = (random: Random, id: string, parent: JsonObject | undefined): JsonObject => {
  const type = parent ? "code" : random.pick(NODE_TYPES);
  return {
    id,
    type: "custom",
    data: { type, title: `Node ${id}`, unknown_setting: randomValue(random) },
    position: { x: random.integer(-500, 500), y: random.integer(-500, 500) },
    ...(CONTAINERS.includes(type) ? { width: 500, height: 300 } : {}),
    ...(parent ? { parentId: parent.id } : {}),
    unknown_field: randomValue(random),
  };
};

const randomEdge = (random: Random, nodes: JsonObject[], index: number): JsonObject => ({
  id: `edge ${index}`,
  source: random.pick(nodes).id,
  target: random.pick(nodes).id,
  sourceHandle: random.pick(["source", "true", "fail-branch"]),
  targetHandle: "target",
  type: "custom",
  data: { unknown_setting: randomValue(random) },
  unknown_field: randomValue(random),
});

// An app's file with fields that no version of the console knows.
export const randomApp = (random: Random): JsonObject => {
  const nodes: JsonObject[] = [];
  for (let index = 0; index < random.integer(1, 12); index++) {
    const containers = nodes.filter((node) => CONTAINERS.includes((node.data as JsonObject).type as string));
    const parent = containers.length && random.boolean() ? random.pick(containers) : undefined;
    nodes.push(randomNode(random, `${index}`, parent));
  }
  const edges = random.list(15, (index) => randomEdge(random, nodes, index));
  return {
    app: { name: "Random", mode: random.pick(["workflow", "advanced-chat"]), unknown_field: randomValue(random) },
    kind: "app",
    unknown_section: randomValue(random),
    workflow: {
      environment_variables: [],
      unknown_field: randomValue(random),
      graph: { nodes, edges, viewport: { x: 1, y: 2, zoom: 0.5 }, unknown_field: randomValue(random) },
    },
  };
};

export const toYaml = (document: JsonObject): string => writeYaml(document);
export const fromYaml = (text: string): JsonObject => readYaml(text) as JsonObject;

export const graphOf = (document: JsonObject) =>
  (document.workflow as JsonObject).graph as { nodes: JsonObject[]; edges: JsonObject[] };
