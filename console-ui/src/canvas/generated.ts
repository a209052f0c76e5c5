// What a model has drafted, put where a node has it.
import type { Shape } from "../api";
import { asObject, asObjects, type JsonObject, type NodeData } from "./file";

interface PromptMessage extends JsonObject {
  role?: string;
  text?: string;
}

const isSystem = (message: JsonObject) => message.role === "system";

// The text that a generated prompt takes the place of. Nodes for completion models have one text and no messages.
export const systemPromptOf = (template: unknown): string => {
  if (!Array.isArray(template)) return String(asObject(template).text ?? "");
  return String(asObjects(template).find(isSystem)?.text ?? "");
};

export const withSystemPrompt = (template: unknown, text: string): unknown => {
  if (template && !Array.isArray(template)) return { ...asObject(template), text };
  const messages = asObjects(template) as PromptMessage[];
  const index = messages.findIndex(isSystem);
  if (index < 0) return [{ role: "system", text }, ...messages];
  return messages.map((message, position) => (position === index ? { ...message, text } : message));
};

// A generated prompt names its variables as `{{name}}`; nodes read `{{#node.variable#}}`. `keys` has what each stands
// for; one without a key stays as it is. All are replaced at once, so that none is read in what another stands for.
export const withVariables = (prompt: string, keys: Readonly<Record<string, string>>): string =>
  prompt.replace(/\{\{(\w+)\}\}/g, (mention, name: string) => (keys[name] ? `{{#${keys[name]}#}}` : mention));

type GeneratedCode = Shape<"GeneratedCodeView">;

// Variables that the program still has keep what they read.
export const withCode = (data: NodeData, { language, code, inputs, outputs }: GeneratedCode): NodeData => {
  const before = new Map(asObjects(data.variables).map((variable) => [String(variable.variable), variable]));
  const declared = asObject(data.outputs);
  const outputOf = (name: string, type: string): JsonObject => {
    const existing = asObject(declared[name]);
    return existing.type === type ? existing : { type, children: null };
  };
  return {
    ...data,
    code_language: language,
    code,
    variables: inputs.map(({ name }) => before.get(name) ?? { variable: name, value_selector: [] }),
    outputs: Object.fromEntries(outputs.map(({ name, type }) => [name, outputOf(name, type)])),
  };
};
