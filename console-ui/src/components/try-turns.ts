// What the events of a run make of its answer, for someone who tries an app.
import type { RunEvent } from "./inputs";

export interface TryStep {
  id: string;
  title: string;
  status: string;
  // When the step started, until it ends; then how long it took.
  seconds: number;
  data?: unknown;
}
export interface TryTurn {
  query: string;
  answer: string;
  steps: TryStep[];
  trouble: string;
  status: string;
  outputs?: Record<string, unknown>;
}

export const newTurn = (query: string): TryTurn => ({ query, answer: "", steps: [], trouble: "", status: "running" });

// An agent's log entry replaces the one with its id.
const withLog = (steps: TryStep[], event: RunEvent): TryStep[] => [
  ...steps.filter((step) => step.id !== event.message_id),
  {
    id: event.message_id ?? "",
    title: event.label ?? "",
    status: event.status || "running",
    seconds: 0,
    data: event.data,
  },
];

const startedStep = (event: RunEvent): TryStep => ({
  id: event.id ?? "",
  title: event.title || event.node_id || "",
  status: "running",
  seconds: event.at ?? 0,
});

const endedStep = (step: TryStep, event: RunEvent): TryStep => ({
  ...step,
  status: event.event === "node_succeeded" ? "succeeded" : "failed",
  seconds: Math.max(0, (event.at ?? 0) - step.seconds),
  data: event.error ?? event.outputs,
});

export const withEvent = (turn: TryTurn, event: RunEvent): TryTurn => {
  switch (event.event) {
    case "node_chunk":
      return { ...turn, answer: turn.answer + (event.chunk ?? "") };
    case "agent_log":
      return { ...turn, steps: withLog(turn.steps, event) };
    case "node_started":
      return { ...turn, steps: [...turn.steps, startedStep(event)] };
    case "node_succeeded":
    case "node_failed":
    case "node_exception":
      return { ...turn, steps: turn.steps.map((step) => (step.id === event.id ? endedStep(step, event) : step)) };
    case "end": {
      const { run } = event;
      return run ? { ...turn, status: run.status, outputs: run.outputs, trouble: run.error } : turn;
    }
    case "error":
      return { ...turn, trouble: event.message ?? "", status: "failed" };
    default:
      return turn;
  }
};
