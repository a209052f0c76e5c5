import { describe, expect, test } from "vitest";
import { sortedByNode } from "../../src/canvas/app-check";
import { read } from "../../src/canvas/file";
import { progressByNode, streamedText } from "../../src/canvas/run-progress";
import type { RunEvent } from "../../src/components/inputs";
import { toYaml } from "./graphs";

const EVENTS: RunEvent[] = [
  { event: "run" },
  { event: "node_started", node_id: "llm", id: "1", at: 10 },
  { event: "node_chunk", node_id: "llm", chunk: "Hel" },
  { event: "node_chunk", node_id: "llm", chunk: "lo" },
  { event: "node_succeeded", node_id: "llm", id: "1", at: 12.5 },
  { event: "node_started", node_id: "llm", id: "2", at: 20 },
  { event: "node_started", node_id: "form", id: "3", at: 21 },
  { event: "node_paused", node_id: "form", id: "3" },
  { event: "node_exception", node_id: "llm", id: "2", at: 21 },
  { event: "end" },
];

describe("the progress of a run", () => {
  test("is known after each event", () => {
    const states = EVENTS.map((_, index) => progressByNode(EVENTS.slice(0, index + 1)));
    expect(states[0]).toEqual({});
    expect(states[3]!.llm).toEqual({ status: "running", seconds: 0, text: "Hello", count: 1 });
    expect(states[4]!.llm).toEqual({ status: "succeeded", seconds: 2.5, text: "Hello", count: 1 });
    expect(states[5]!.llm).toEqual({ status: "running", seconds: 2.5, text: "", count: 2 });
    expect(states.at(-1)).toEqual({
      llm: { status: "failed", seconds: 1, text: "", count: 2 },
      form: { status: "paused", seconds: 0, text: "", count: 1 },
    });
  });

  test("of a node whose start was not seen has no duration", () => {
    expect(progressByNode([{ event: "node_failed", node_id: "a", at: 99 }]).a).toMatchObject({ seconds: 0 });
  });

  test("has the text that the run wrote", () => {
    expect(streamedText(EVENTS)).toBe("Hello");
  });
});

test("problems of a file are shown at their nodes, by id or by title", () => {
  const nodes = [
    { id: "1", data: { type: "llm", title: "Model" } },
    { id: "2", data: { type: "code", title: "Script" } },
  ];
  const { graph } = read(toYaml({ workflow: { graph: { nodes, edges: [] } } }));
  const problem = (node: string, field: string, message: string) => ({ node, field, message, line: 0 });
  const report = {
    needs: [],
    problems: [problem("1", "model", "missing"), problem("Script", "", "no code"), problem("", "", "no start")],
    warnings: [problem("1", "", "slow"), problem("gone", "x", "unknown node")],
    schedules: [{ node: "2", cron: "* * * * *", timezone: "UTC", next: [60, 120] }],
  };
  expect(sortedByNode(report, graph.nodes)).toEqual({
    problems: { "1": ["model: missing", "slow"], "2": ["no code"] },
    appProblems: ["no start", "unknown node"],
    times: { "2": [60, 120] },
  });
});
