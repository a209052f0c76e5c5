// What the server finds wrong with an app's file, by node.
import { type RefObject, useCallback, useState } from "react";
import { api, type Shape } from "../api";
import type { AppFile, FlowNode } from "./file";

export interface AppCheck {
  // Messages by node id.
  problems: Record<string, string[]>;
  // Messages that concern no node.
  appProblems: string[];
  // When each schedule node starts next, in seconds since 1970, by node id.
  times: Record<string, number[]>;
}
const NO_PROBLEMS: AppCheck = { problems: {}, appProblems: [], times: {} };

// A problem names its node by id or by title.
export const sortedByNode = (report: Shape<"FileCheck">, nodes: FlowNode[]): AppCheck => {
  const problems: Record<string, string[]> = {};
  const appProblems: string[] = [];
  for (const problem of [...report.problems, ...report.warnings]) {
    const owner = nodes.find(
      (node) => problem.node && (node.id === problem.node || node.data.node.title === problem.node),
    );
    const message = problem.field ? `${problem.field}: ${problem.message}` : problem.message;
    if (owner) problems[owner.id] = [...(problems[owner.id] ?? []), message];
    else appProblems.push(problem.message);
  }
  const times = Object.fromEntries(report.schedules.map((schedule) => [schedule.node, schedule.next]));
  return { problems, appProblems, times };
};

// A check that fails, as when the server cannot be reached, leaves the last result.
export const useAppCheck = (current: RefObject<AppFile>): AppCheck & { check: (text: string) => void } => {
  const [result, setResult] = useState(NO_PROBLEMS);
  const check = useCallback(
    (text: string) => {
      void api.checkApp(text).then(
        (report) => setResult(sortedByNode(report, current.current.graph.nodes)),
        () => undefined,
      );
    },
    [current],
  );
  return { ...result, check };
};
