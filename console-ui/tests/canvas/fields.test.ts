import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { createElement } from "react";
import { renderToStaticMarkup } from "react-dom/server";
import { describe, expect, test } from "vitest";
import { getIn, modelId, type NodeContext, nameOf, setIn } from "../../src/canvas/controls";
import { FIELDS, type FieldSpec, MAY_FAIL, OPERATORS, WITHOUT_VALUE } from "../../src/canvas/fields";
import { INNER, type JsonObject } from "../../src/canvas/file";
import { NodeField, withNewId } from "../../src/canvas/node-fields";
import { usedVariables } from "../../src/canvas/node-test";
import { newNodeData } from "../../src/canvas/templates";
import { asField, asFileTime } from "../../src/canvas/triggers";
import { parseValue } from "../../src/canvas/variables-panel";
import { moveUp, removeAt, replaceAt } from "../../src/lists";
import { WORDS } from "../../src/messages";
import { Chooses } from "../../src/settings";
import { Random, seeds } from "../random";

const TYPES = Object.keys(FIELDS);
const EDITABLE = TYPES.filter((type) => !INNER.includes(type));

const allSpecs = (specs: FieldSpec[]): FieldSpec[] => specs.flatMap((spec) => [spec, ...allSpecs(spec.of ?? [])]);

describe.each(TYPES)("the form of %s", (type) => {
  const specs = allSpecs(FIELDS[type]!);

  test("has a label in each language for each field", () => {
    for (const { fields } of Object.values(WORDS))
      for (const spec of specs) expect(fields, spec.path).toHaveProperty(spec.label);
  });

  test("offers something at each choice", () => {
    for (const spec of specs.filter(({ kind }) => kind === "select")) {
      expect(spec.options?.length, spec.path).toBeGreaterThan(0);
      expect(new Set(spec.options).size, spec.path).toBe(spec.options?.length);
    }
  });

  test("has rows with fields, and new rows that have them", () => {
    for (const spec of specs.filter(({ kind }) => kind === "list")) {
      expect(spec.of?.length, spec.path).toBeGreaterThan(0);
      expect(Object.keys(spec.fresh ?? {}).length, spec.path).toBeGreaterThan(0);
    }
  });

  test("decides what to show for any data", () => {
    for (const spec of specs)
      for (const data of [{}, newNodeData(type, "", true)]) expect(() => spec.when?.(data)).not.toThrow();
  });

  test("has choices that a new node's settings are among", () => {
    const data = newNodeData(type, "", false);
    for (const spec of FIELDS[type]!.filter(({ kind }) => kind === "select")) {
      const value = getIn(data, spec.path);
      if (value !== undefined) expect(spec.options, spec.path).toContain(value);
    }
  });
});

test("every type of node has a name in each language, and a form", () => {
  for (const { nodeKinds } of Object.values(WORDS)) for (const type of EDITABLE) expect(nodeKinds).toHaveProperty(type);
  for (const type of MAY_FAIL) expect(TYPES).toContain(type);
  for (const operator of WITHOUT_VALUE) expect(OPERATORS).toContain(operator);
});

describe("values at a path", () => {
  const randomPath = (random: Random) =>
    Array.from({ length: random.integer(1, 4) }, () => random.pick(["a", "b", "c"])).join(".");

  test("are what was put there, and nothing else changes", () => {
    for (const seed of seeds(200)) {
      const random = new Random(seed);
      let data: JsonObject = { other: { kept: [1] } };
      const before = structuredClone(data);
      const path = randomPath(random);
      data = setIn(data, path, seed);
      expect(getIn(data, path), `seed ${seed}`).toBe(seed);
      expect(data.other).toEqual(before.other);
      const changed = setIn(data, path, "changed");
      expect(getIn(data, path), `seed ${seed}`).toBe(seed);
      expect(setIn(changed, path, seed)).toEqual(data);
    }
  });

  test("may not be there", () => {
    expect(getIn({ a: { b: null } }, "a.b.c.d")).toBeUndefined();
    expect(getIn(undefined, "a")).toBeUndefined();
    expect(getIn({ a: 1 }, "")).toEqual({ a: 1 });
    expect(setIn({ a: 1 }, "", { b: 2 })).toEqual({ b: 2 });
  });
});

describe("rows", () => {
  const rows = ["a", "b", "c"];
  test("are replaced, removed and moved", () => {
    expect(replaceAt(rows, 1, "x")).toEqual(["a", "x", "c"]);
    expect(removeAt(rows, 1)).toEqual(["a", "c"]);
    expect(moveUp(rows, 2)).toEqual(["a", "c", "b"]);
    expect(moveUp(rows, 0)).toEqual(rows);
    expect(moveUp(rows, 3)).toEqual(rows);
  });

  test("get an id if they have one that is empty", () => {
    expect(withNewId({ case_id: "" }).case_id).toMatch(/^case-\d+$/);
    expect(withNewId({ id: "" }).id).toMatch(/^\d+$/);
    expect(withNewId({ id: "1" })).toEqual({ id: "1" });
    expect(withNewId({ name: "" })).toEqual({ name: "" });
  });
});

test("values of variables have their type, and stay text while they are no JSON", () => {
  expect(parseValue("1.5", "number")).toBe(1.5);
  expect(parseValue("many", "number")).toBe(0);
  expect(parseValue("1", "string")).toBe("1");
  expect(parseValue("[1]", "secret")).toBe("[1]");
  expect(parseValue("[1]", "array[number]")).toEqual([1]);
  expect(parseValue("[1", "array[number]")).toBe("[1");
});

test("models are named as the gateway names them", () => {
  expect(modelId({ provider: "langgenius/openai/openai", name: "gpt" })).toBe("openai/gpt");
  expect(modelId({ provider: "openai", name: "openai/gpt" })).toBe("openai/gpt");
  expect(modelId({ provider: "", name: "default" })).toBe("default");
  expect(modelId({})).toBe("");
});

test("variables are named by their node's title", () => {
  const titles = new Map([["1", "Model"]]);
  expect(nameOf(["1", "text"], titles)).toBe("Model.text");
  expect(nameOf(["2", "a", "b"], titles)).toBe("2.a.b");
  expect(nameOf(["1"], titles)).toBe("");
  expect(nameOf("text", titles)).toBe("");
});

test("variables that a test asks for are those that the file names", () => {
  const variable = (...selector: string[]) => ({ selector, kind: "string" });
  const variables = [variable("1", "text"), variable("2", "query"), variable("3", "other")];
  const text = 'prompt: "{{#1.text#}}"\nselector:\n  - "2"\n  - query\n';
  expect(usedVariables(variables, text).map(({ selector }) => selector[0])).toEqual(["1", "2"]);
});

describe("a form as it is drawn", () => {
  const within: NodeContext = {
    app: { document: {}, graph: { nodes: [], edges: [] } },
    id: "node",
    variables: [{ selector: ["1", "text"], kind: "string" }],
    titles: new Map([["1", "Model"]]),
    appId: "app",
    times: [],
    changeDocument: () => undefined,
  };
  const draw = (spec: FieldSpec, data: JsonObject) => {
    const field = createElement(NodeField, { spec, data, within, onChange: () => undefined });
    // biome-ignore lint/correctness/noChildrenProp: its type requires them among the properties
    const page = createElement(Chooses, { words: WORDS, requestedLanguage: "en", children: field });
    return renderToStaticMarkup(createElement(QueryClientProvider, { client: new QueryClient() }, page));
  };

  test.each(EDITABLE)("has a control for each setting of %s", (type) => {
    const data = newNodeData(type, "", true);
    for (const spec of FIELDS[type]!) {
      const isShown = spec.when ? spec.when(data) : true;
      const html = draw(spec, data);
      if (isShown) expect(html, spec.path).not.toBe("");
      else expect(html, spec.path).toBe("");
    }
  });

  test("shows what the file has, as text", () => {
    const html = draw({ path: "a.b", label: "name", kind: "text" }, { a: { b: '<b>"&' } });
    expect(html).toContain('value="&lt;b&gt;&quot;&amp;"');
  });

  test("shows what the server takes where the file says nothing", () => {
    const spec = FIELDS["http-request"]!.find(({ path }) => path === "ssl_verify")!;
    expect(draw(spec, {})).toContain('checked=""');
    expect(draw(spec, { ssl_verify: false })).not.toContain('checked=""');
  });

  test("offers a choice that only the file knows", () => {
    const spec: FieldSpec = { path: "m", label: "method", kind: "select", options: ["get", "post"] };
    expect(draw(spec, { m: "TRACE" })).toContain('<option value="TRACE" selected="">');
    expect(draw(spec, { m: "POST" })).toContain('<option value="post" selected="">');
  });

  test("shows a variable that the node cannot read", () => {
    const spec: FieldSpec = { path: "s", label: "value", kind: "selector" };
    expect(draw(spec, { s: ["9", "gone"] })).toContain('<option value="9.gone" selected="">9.gone</option>');
    expect(draw(spec, { s: ["1", "text"] })).toContain('<option value="1.text" selected="">Model.text');
  });

  test("has the fields of each row", () => {
    const spec = FIELDS.end![0]!;
    const html = draw(spec, { outputs: [{ variable: "first" }, { variable: "second" }] });
    expect(html).toContain('value="first"');
    expect(html).toContain('value="second"');
    expect(html.split("Move up").length).toBe(2);
  });
});

describe("times of a schedule", () => {
  test("are the same after the form and the file", () => {
    for (let minutes = 0; minutes < 24 * 60; minutes++) {
      const hour = String(Math.floor(minutes / 60)).padStart(2, "0");
      const time = `${hour}:${String(minutes % 60).padStart(2, "0")}`;
      expect(asField(asFileTime(time))).toBe(time);
    }
  });

  test.each([
    ["12:00 AM", "00:00"],
    ["12:30 pm", "12:30"],
    ["9:05 AM", "09:05"],
    ["21:30", "21:30"],
    ["noon", ""],
    ["", ""],
  ])("%j is %j in the form", (inFile, inForm) => {
    expect(asField(inFile)).toBe(inForm);
  });
});
