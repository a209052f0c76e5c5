import type { RunEvent } from "../components/inputs";
import type { NodeProgress } from "./step";

const END_STATUSES = new Map([
  ["node_succeeded", "succeeded"],
  ["node_failed", "failed"],
  ["node_exception", "failed"],
]);
// "succeeded" or "failed" if a node ends with this event.
export const endStatus = (event: RunEvent): string | undefined => END_STATUSES.get(event.event);

// What the canvas shows of a run after these events, by node id. A node in a loop runs several times.
export const progressByNode = (events: RunEvent[]): Record<string, NodeProgress> => {
  const progress: Record<string, NodeProgress> = {};
  const startTimes = new Map<string, number>();
  for (const event of events) {
    const nodeId = event.node_id;
    if (!nodeId) continue;
    const before = progress[nodeId] ?? { status: "", seconds: 0, text: "", count: 0 };
    const timestamp = event.at ?? 0;
    const executionId = event.id ?? nodeId;
    if (event.event === "node_started") {
      startTimes.set(executionId, timestamp);
      progress[nodeId] = { ...before, status: "running", count: before.count + 1, text: "" };
    }
    if (event.event === "node_chunk") progress[nodeId] = { ...before, text: before.text + (event.chunk ?? "") };
    if (event.event === "node_paused") progress[nodeId] = { ...before, status: "paused" };
    const status = endStatus(event);
    if (status)
      progress[nodeId] = { ...before, status, seconds: timestamp - (startTimes.get(executionId) ?? timestamp) };
  }
  return progress;
};

export const streamedText = (events: RunEvent[]): string =>
  events
    .filter((event) => event.event === "node_chunk")
    .map((event) => event.chunk ?? "")
    .join("");
