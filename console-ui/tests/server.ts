// A server in the place of the network: a function that answers requests.
import { vi } from "vitest";
import { ORIGIN } from "./browser";

export type Answer = (request: Request) => Response | Promise<Response>;

// All requests that the code under test sends, in order.
export const serve = (answer: Answer): Request[] => {
  const requests: Request[] = [];
  const fetchFromServer = async (input: RequestInfo | URL, init?: RequestInit): Promise<Response> => {
    const request = new Request(typeof input === "string" ? new URL(input, ORIGIN) : input, init);
    requests.push(request);
    // Like a browser: a request that is given up fails, even if its answer is under way.
    request.signal.throwIfAborted();
    return answer(request);
  };
  vi.spyOn(globalThis, "fetch").mockImplementation(fetchFromServer);
  return requests;
};

export const json = (body: unknown, status = 200): Response => Response.json(body, { status });

// A body that arrives in exactly these chunks.
export const streamOf = (chunks: Uint8Array[]): ReadableStream<Uint8Array> =>
  new ReadableStream({
    start: (controller) => {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });

export const cutAt = (bytes: Uint8Array, positions: number[]): Uint8Array[] => {
  const ends = [...new Set([...positions, bytes.length])].sort((a, b) => a - b);
  return ends.map((end, index) => bytes.slice(ends[index - 1] ?? 0, end));
};

export const eventStream = (events: unknown[]): Uint8Array =>
  new TextEncoder().encode(events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join(""));

export const collect = async <T>(items: AsyncIterable<T>): Promise<T[]> => {
  const collected: T[] = [];
  for await (const item of items) collected.push(item);
  return collected;
};
