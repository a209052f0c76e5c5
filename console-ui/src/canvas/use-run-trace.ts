import { useEffect, useRef, useState } from "react";
import { events as streamEvents } from "../api";
import { useWrong } from "../components/base";
import type { RunEvent } from "../components/inputs";
import { progressByNode } from "./run-progress";
import type { NodeProgress } from "./step";

// Collects events and delivers them at most once a frame, however many come.
const frameBatch = (deliver: (events: RunEvent[]) => void) => {
  const waiting: RunEvent[] = [];
  let frame = 0;
  const flush = () => {
    frame = 0;
    deliver(waiting.splice(0));
  };
  return {
    add: (event: RunEvent) => {
      waiting.push(event);
      frame ||= requestAnimationFrame(flush);
    },
    end: () => {
      cancelAnimationFrame(frame);
      flush();
    },
  };
};

// The events of a run as they arrive. `position` is how many of them are shown; null is all. `onProgress` hears what
// the canvas is to show, `onEnd` that no more events come.
export const useRunTrace = (onProgress: (progress: Record<string, NodeProgress>) => void, onEnd: () => void) => {
  const errorText = useWrong();
  const [events, setEvents] = useState<RunEvent[]>([]);
  const [position, setPosition] = useState<number | null>(null);
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState("");
  const [runId, setRunId] = useState("");
  const activeStream = useRef<AbortController | null>(null);
  const shownEvents = position === null ? events : events.slice(0, position);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the shown events are a new array at each rendering
  useEffect(() => {
    onProgress(progressByNode(shownEvents));
  }, [shownEvents.length, events]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: once, when this panel goes
  useEffect(
    () => () => {
      activeStream.current?.abort();
      onProgress({});
    },
    [],
  );
  const handleEvent = (event: RunEvent) => {
    if (event.event === "run" && event.run) setRunId(event.run.id);
    if (event.event === "error") setError(event.message ?? "");
  };
  // Starts or replays a run; another one that is being followed is given up.
  const follow = async (path: string, init: RequestInit) => {
    activeStream.current?.abort();
    const controller = new AbortController();
    activeStream.current = controller;
    setEvents([]);
    setPosition(null);
    setError("");
    setBusy(true);
    const batch = frameBatch((arrived) => setEvents((earlier) => [...earlier, ...arrived]));
    try {
      for await (const event of streamEvents<RunEvent>(path, { ...init, signal: controller.signal })) {
        handleEvent(event);
        batch.add(event);
      }
    } catch (reason) {
      if ((reason as Error).name !== "AbortError") setError(errorText(reason));
    } finally {
      batch.end();
      if (activeStream.current === controller) setBusy(false);
      onEnd();
    }
  };
  return { events, shownEvents, position, setPosition, isBusy, error, setError, runId, follow };
};
export type RunTrace = ReturnType<typeof useRunTrace>;
