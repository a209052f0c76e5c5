import { expect, test } from "vitest";
import { type Form, type RunEvent, ready } from "../src/components/inputs";
import { newTurn, withEvent } from "../src/components/try-turns";

const run = { id: "r", status: "succeeded", outputs: { text: "x" }, error: "" } as unknown as RunEvent["run"];

test("a turn shows each step and the answer as they come", () => {
  const events: RunEvent[] = [
    { event: "node_started", id: "1", node_id: "llm", title: "Model", at: 5 },
    { event: "agent_log", message_id: "l1", label: "look", status: "running" },
    { event: "agent_log", message_id: "l1", label: "look", status: "succeeded", data: { hits: 2 } },
    { event: "node_chunk", chunk: "Hel" },
    { event: "node_chunk", chunk: "lo" },
    { event: "node_succeeded", id: "1", at: 7.5, outputs: { text: "Hello" } },
    { event: "node_started", id: "2", node_id: "code", at: 8 },
    { event: "node_failed", id: "2", at: 7, error: "division by zero" },
    { event: "unknown" },
    { event: "end", run: run! },
  ];
  expect(events.reduce(withEvent, newTurn("hi"))).toEqual({
    query: "hi",
    answer: "Hello",
    status: "succeeded",
    trouble: "",
    outputs: { text: "x" },
    steps: [
      { id: "1", title: "Model", status: "succeeded", seconds: 2.5, data: { text: "Hello" } },
      { id: "l1", title: "look", status: "succeeded", seconds: 0, data: { hits: 2 } },
      { id: "2", title: "code", status: "failed", seconds: 0, data: "division by zero" },
    ],
  });
});

test("a turn that fails says why", () => {
  expect(withEvent(newTurn(""), { event: "error", message: "no model" })).toMatchObject({
    status: "failed",
    trouble: "no model",
  });
});

test("a form's values are sent as the server takes them", () => {
  const field = (type: string, more: Partial<Form> = {}): Form => ({
    type,
    variable: type,
    label: type,
    required: false,
    options: [],
    ...more,
  });
  const form = [
    field("number"),
    field("checkbox"),
    field("json_object"),
    field("paragraph"),
    field("select", { default: "a" }),
    field("file"),
  ];
  const values = { number: "1.5", checkbox: "true", json_object: '{"a":[1]}', paragraph: "" };
  expect(ready(values, form)).toEqual({ number: 1.5, checkbox: true, json_object: { a: [1] }, select: "a" });
  expect(ready({}, [field("checkbox"), field("number")])).toEqual({ checkbox: false });
  expect(() => ready({ json_object: "{" }, form)).toThrow(SyntaxError);
});
