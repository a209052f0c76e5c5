import { describe, expect, test } from "vitest";
import { eventsIn, isAbort, Refused, reached, refusalOf } from "../src/calls";
import { Random, seeds } from "./random";
import { collect, cutAt, eventStream, json, serve, streamOf } from "./server";

const EVENTS = [
  { event: "message", answer: "Grüße, 世界 🌍" },
  { event: "ping" },
  { event: "message", answer: 'a "quoted"\nsecond line, data: [DONE]' },
  { event: "message_end", metadata: { usage: { total_tokens: 7 } } },
];

const read = (chunks: Uint8Array[]) => collect(eventsIn<object>(new Response(streamOf(chunks))));

describe("a stream of events", () => {
  const bytes = eventStream(EVENTS);

  test("is the same wherever it is cut in two", async () => {
    for (let position = 0; position <= bytes.length; position++)
      expect(await read(cutAt(bytes, [position])), `cut at byte ${position}`).toEqual(EVENTS);
  });

  test("is the same in any number of chunks", async () => {
    for (const seed of seeds(50)) {
      const random = new Random(seed);
      const positions = random.list(bytes.length, () => random.integer(0, bytes.length));
      expect(await read(cutAt(bytes, positions)), `seed ${seed}`).toEqual(EVENTS);
    }
  });

  test("has events only in data lines", async () => {
    const text = ': comment\nevent: message\nid: 1\ndata: {"a":1}\n\nretry: 5\ndata: [DONE]\n\n';
    expect(await read([new TextEncoder().encode(text)])).toEqual([{ a: 1 }]);
  });

  test("leaves out an event that did not arrive in full", async () => {
    const cut = eventStream(EVENTS.slice(0, 2)).slice(0, -3);
    expect(await read([cut])).toEqual(EVENTS.slice(0, 1));
  });

  test("ends with an error that an event reports", async () => {
    const events = eventsIn<object>(
      new Response(streamOf([eventStream([{ a: 1 }, { error: { message: "model failed" } }, { b: 2 }])])),
    );
    expect((await events.next()).value).toEqual({ a: 1 });
    await expect(events.next()).rejects.toEqual(new Refused("model failed", 500));
  });

  test("passes on the error text of a node, which is not the stream's", async () => {
    const events = [{ event: "node_failed", error: "division by zero" }];
    expect(await read([eventStream(events)])).toEqual(events);
  });

  test("ends with a refusal if the connection breaks", async () => {
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => controller.enqueue(eventStream([{ a: 1 }])),
      pull: (controller) => controller.error(new TypeError("network error")),
    });
    const events = eventsIn<object>(new Response(body));
    await expect(collect(events)).rejects.toMatchObject({ status: 0, message: "" });
  });

  test("ends with an abort if it was given up", async () => {
    const abort = new DOMException("given up", "AbortError");
    const body = new ReadableStream<Uint8Array>({ start: (controller) => controller.error(abort) });
    const error = await collect(eventsIn<object>(new Response(body))).catch((reason: unknown) => reason);
    expect(isAbort(error)).toBe(true);
  });
});

describe("a refusal", () => {
  const cases: [string, Response, Partial<Refused>][] = [
    [
      "of the gateway",
      json({ error: { message: "Unknown model 'x'", code: "model_not_found" } }, 404),
      { status: 404, message: "Unknown model 'x'", code: "model_not_found" },
    ],
    [
      "of the knowledge API",
      json({ code: "invalid", message: "No such dataset" }, 404),
      { message: "No such dataset" },
    ],
    ["without a message", json({}, 409), { status: 409, message: "409 " }],
    [
      "of a proxy, which sends HTML",
      new Response("<h1>Bad Gateway</h1>", { status: 502, statusText: "Bad Gateway" }),
      { status: 502, message: "502 Bad Gateway", code: "" },
    ],
  ];
  test.each(cases)("%s", async (_, response, expected) => {
    const refusal = await refusalOf(response);
    expect(refusal).toBeInstanceOf(Refused);
    expect(refusal).toMatchObject(expected);
  });
});

describe("a request", () => {
  test("to a server that cannot be reached is refused with status 0", async () => {
    serve(() => Promise.reject(new TypeError("fetch failed")));
    await expect(reached(new Request("/health"))).rejects.toMatchObject({ status: 0, message: "" });
  });

  test("that is given up stays an abort", async () => {
    const controller = new AbortController();
    controller.abort();
    serve(() => json({}));
    const error = await reached(new Request("/health", { signal: controller.signal })).catch((reason) => reason);
    expect(isAbort(error)).toBe(true);
  });
});
