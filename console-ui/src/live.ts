// What is new on the server is heard of as it happens: one line of events for the whole page, taken up again by itself.
import { type QueryClient, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { addressed } from "./api";

const TOUCHES: Record<string, string[]> = {
  usage: ["usage", "requests", "latency", "plan"],
  resting: ["resting", "providers", "plan"],
  setup: [
    "keys",
    "users",
    "tenants",
    "limits",
    "routes",
    "credentials",
    "models",
    "defaults",
    "apps",
    "app tags",
    "traces",
    "plugins",
    "providers",
    "catalogue",
  ],
};

export const listen = (client: QueryClient, onState: (isThere: boolean) => void): (() => void) => {
  let source: EventSource | null = null;
  let again: ReturnType<typeof setTimeout> | undefined;
  const waiting = new Set<string>();
  let wasDown = false;
  let soon: ReturnType<typeof setTimeout> | undefined;
  // While somebody sends a thousand calls a second, pages are asked for anew at most every two seconds.
  const tell = (topics: string[]) => {
    for (const key of topics.flatMap((topic) => TOUCHES[topic] ?? [])) waiting.add(key);
    soon ??= setTimeout(() => {
      soon = undefined;
      for (const key of waiting) void client.invalidateQueries({ queryKey: [key] });
      waiting.clear();
    }, 2000);
  };
  const open = () => {
    source = new EventSource(addressed("/admin/v1/live"));
    source.onopen = () => {
      // What was missed while the line was down is asked for once it is back.
      if (wasDown) void client.invalidateQueries();
      wasDown = false;
      onState(true);
    };
    source.onmessage = (event) => tell((JSON.parse(String(event.data)) as { topics: string[] }).topics);
    source.onerror = () => {
      wasDown = true;
      onState(false);
      if (source?.readyState === EventSource.CLOSED) again = setTimeout(open, 3000);
    };
  };
  open();
  return () => {
    source?.close();
    clearTimeout(again);
    clearTimeout(soon);
  };
};

export const useLive = (isOn: boolean): boolean => {
  const client = useQueryClient();
  const [isThere, setThere] = useState(true);
  useEffect(() => (isOn ? listen(client, setThere) : undefined), [client, isOn]);
  return isThere;
};
