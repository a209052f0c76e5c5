// The handles on the right side of a node, one for each branch that a run can take from there.
import { asObjects, type JsonObject, type NodeData } from "./file";

export interface BranchHandle {
  id: string;
  label: string;
}

const caseHandles = (data: NodeData): BranchHandle[] => {
  const cases = asObjects(data.cases);
  const shownCases = cases.length ? cases : [{ case_id: "true" } as JsonObject];
  return [
    ...shownCases.map((branch, index) => ({
      id: String(branch.case_id ?? branch.id),
      label: index ? `ELIF ${index}` : "IF",
    })),
    { id: "false", label: "ELSE" },
  ];
};

export const handles = (data: NodeData): BranchHandle[] => {
  const failure = data.error_strategy === "fail-branch" ? [{ id: "fail-branch", label: "⚠" }] : [];
  switch (data.type) {
    case "if-else":
      return caseHandles(data);
    case "question-classifier":
      return [
        ...asObjects(data.classes).map(({ id, name }) => ({ id: String(id), label: String(name || id) })),
        ...failure,
      ];
    case "human-input":
      return [
        ...asObjects(data.user_actions).map(({ id, title }) => ({ id: String(id), label: String(title || id) })),
        { id: "__timeout", label: "⏱" },
      ];
    case "end":
    case "loop-end":
      return [];
    case "answer":
      return [{ id: "source", label: "" }];
    default:
      return [{ id: "source", label: "" }, ...failure];
  }
};
