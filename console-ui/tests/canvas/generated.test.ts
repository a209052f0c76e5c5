import { createElement } from "react";
import { describe, expect, test } from "vitest";
import type { NodeContext } from "../../src/canvas/controls";
import { FIELDS } from "../../src/canvas/fields";
import type { JsonObject, NodeData } from "../../src/canvas/file";
import { systemPromptOf, withCode, withSystemPrompt, withVariables } from "../../src/canvas/generated";
import { NodeField } from "../../src/canvas/node-fields";
import { generatedSettings, promptApp } from "../../src/pages/prompt-form";
import { draw, T } from "../drawing";
import { fromYaml, toYaml } from "./graphs";

describe("a generated prompt", () => {
  test("takes the place of the system message, or comes first", () => {
    const messages = [
      { role: "user", text: "u" },
      { role: "system", text: "s", id: "1" },
    ];
    expect(systemPromptOf(messages)).toBe("s");
    expect(withSystemPrompt(messages, "new")).toEqual([messages[0], { role: "system", text: "new", id: "1" }]);
    expect(withSystemPrompt([messages[0]], "new")).toEqual([{ role: "system", text: "new" }, messages[0]]);
    expect(withSystemPrompt(undefined, "new")).toEqual([{ role: "system", text: "new" }]);
  });

  test("of a completion model is its text", () => {
    const template = { text: "old", jinja2_text: "x" };
    expect(systemPromptOf(template)).toBe("old");
    expect(withSystemPrompt(template, "new")).toEqual({ text: "new", jinja2_text: "x" });
  });

  test("reads the variables that were chosen, and leaves the others as they are", () => {
    expect(withVariables("{{a}} {{b}} {{a}} {{ a }} {{#x.a#}}", { a: "n.text" })).toBe(
      "{{#n.text#}} {{b}} {{#n.text#}} {{ a }} {{#x.a#}}",
    );
    // What one stands for is not read again.
    expect(withVariables("{{a}}{{b}}", { a: "b.b", b: "x.y" })).toBe("{{#b.b#}}{{#x.y#}}");
  });
});

describe("a generated program", () => {
  const draft = {
    language: "python3",
    code: "def main(text, count): ...",
    inputs: [
      { name: "text", type: "string" },
      { name: "count", type: "number" },
    ],
    outputs: [
      { name: "result", type: "string" },
      { name: "items", type: "array[string]" },
    ],
  };
  const data: NodeData = {
    type: "code",
    title: "Code",
    code: "old",
    code_language: "javascript",
    variables: [
      { variable: "text", value_selector: ["start", "text"], unknown: 1 },
      { variable: "gone", value_selector: ["start", "gone"] },
    ],
    outputs: { result: { type: "string", children: null, unknown: 1 }, items: { type: "string", children: null } },
    unknown: 1,
  };

  test("has the inputs and outputs that it declares, and keeps what fits", () => {
    expect(withCode(data, draft)).toEqual({
      ...data,
      code: draft.code,
      code_language: "python3",
      variables: [
        { variable: "text", value_selector: ["start", "text"], unknown: 1 },
        { variable: "count", value_selector: [] },
      ],
      outputs: {
        result: { type: "string", children: null, unknown: 1 },
        items: { type: "array[string]", children: null },
      },
    });
  });

  test("that is what the node has changes nothing", () => {
    const written = withCode(data, draft);
    expect(withCode(written, draft)).toEqual(written);
  });
});

describe("the forms of nodes", () => {
  const within: NodeContext = {
    app: { document: {}, graph: { nodes: [], edges: [] } },
    id: "node",
    variables: [],
    titles: new Map(),
    appId: "a1",
    times: [],
    changeDocument: () => undefined,
  };
  const drawn = (type: string, data: JsonObject) =>
    FIELDS[type]!.map((spec) => draw(createElement(NodeField, { spec, data, within, onChange: () => undefined }))).join(
      "",
    );

  test("offer drafts where a model can write them", () => {
    expect(drawn("llm", { prompt_template: [] })).toContain(T.generatePrompt);
    expect(drawn("llm", { prompt_template: [] })).not.toContain(T.generateSchema);
    expect(drawn("llm", { structured_output_enabled: true })).toContain(T.generateSchema);
    expect(drawn("code", { code: "" })).toContain(T.generateCode);
    expect(drawn("answer", {})).not.toContain(T.generatePrompt);
  });
});

describe("an app with one prompt", () => {
  const draft = {
    prompt: "Translate {{text}} to {{language}}",
    variables: ["text", "language"],
    opening_statement: "Hi",
  };
  const changed = (mode: string, settings: JsonObject): JsonObject => {
    let text = toYaml({ app: { name: "x" }, model_config: settings });
    const app = promptApp(mode, text, (next) => {
      text = next;
    })!;
    app.putAll(generatedSettings(app, draft));
    return fromYaml(text).model_config as JsonObject;
  };

  test("gets the prompt with a field for each new variable", () => {
    const form = [{ "text-input": { label: "Text", variable: "text", required: false } }];
    const settings = changed("completion", { pre_prompt: "old", user_input_form: form, other: 1 });
    expect(settings).toMatchObject({ pre_prompt: draft.prompt, other: 1 });
    expect(settings.user_input_form).toEqual([
      ...form,
      { paragraph: { label: "language", variable: "language", required: true, default: "" } },
    ]);
    // A form opens with its fields.
    expect(settings).not.toHaveProperty("opening_statement");
  });

  test("gets an opening message, unless it has one", () => {
    expect(changed("chat", {}).opening_statement).toBe("Hi");
    expect(changed("chat", { opening_statement: "Mine" }).opening_statement).toBe("Mine");
  });
});
