import { beforeEach, describe, expect, test, vi } from "vitest";
import { actFor, actingFor, addressed, api, chat, events, session } from "../src/api";
import { isAbort } from "../src/calls";
import { Random, seeds } from "./random";
import { collect, cutAt, eventStream, json, serve, streamOf } from "./server";

const TENANT_HEADER = "x-modelyard-tenant";

const pathOf = (request: Request) => request.url.slice(new URL(request.url).origin.length);

beforeEach(() => actFor(""));

describe("what is asked", () => {
  test("names the resource in the path, encoded", async () => {
    const requests = serve(() => json({ id: "a/b" }));
    await api.change("keys", "a/b c", { name: "new" });
    expect(requests[0]!.method).toBe("PATCH");
    expect(pathOf(requests[0]!)).toBe("/admin/v1/keys/a%2Fb%20c");
    expect(await requests[0]!.json()).toEqual({ name: "new" });
  });

  test("through the described client is the same", async () => {
    const requests = serve(() => json({ data: [] }));
    await api.saveApp("a b", "app: {}", "digest-1");
    expect(requests[0]!.method).toBe("PUT");
    expect(pathOf(requests[0]!)).toBe("/admin/v1/apps/a%20b/file");
    expect(await requests[0]!.json()).toEqual({ file: "app: {}", base: "digest-1" });
  });

  test("lists come without their envelope", async () => {
    serve((request) => json({ data: [pathOf(request)] }));
    expect(await api.all("limits")).toEqual(["/admin/v1/limits?limit=1000"]);
    expect(await api.providers()).toEqual(["/admin/v1/providers"]);
  });

  test("leaves out what is not asked for", async () => {
    const requests = serve(() => json({ data: [] }));
    await api.usage("model", 5);
    await api.usage("model", 5, 9);
    await api.appForm("x", true);
    expect(requests.map(pathOf)).toEqual([
      "/admin/v1/usage?by=model&since=5",
      "/admin/v1/usage?by=model&since=5&until=9",
      "/admin/v1/apps/x/form?draft=true",
    ]);
  });

  test("a file is sent as it is, and read as text", async () => {
    const requests = serve(() => new Response("app:\n  name: ü\n"));
    expect(await api.appFile("x", "v1")).toBe("app:\n  name: ü\n");
    expect(pathOf(requests[0]!)).toBe("/admin/v1/apps/x/file?version=v1");
  });

  test("a package is installed unsigned only if that is confirmed", async () => {
    const requests = serve(() => json({ id: "task" }));
    await api.install(new Blob(["zip"]));
    await api.install(new Blob(["zip"]), true);
    expect(requests.map(pathOf)).toEqual(["/admin/v1/plugins?", "/admin/v1/plugins?unsigned=true"]);
    expect(requests[0]!.headers.get("content-type")).toBe("application/octet-stream");
  });
});

describe("acting for another tenant", () => {
  test("marks each request, but not the list of tenants", async () => {
    const requests = serve(() => json({ data: [] }));
    actFor("acme");
    await api.all("keys");
    await api.providers();
    await api.tenants();
    expect(requests.map((request) => request.headers.get(TENANT_HEADER))).toEqual(["acme", "acme", null]);
    actFor("");
    await api.all("keys");
    expect(requests.at(-1)!.headers.get(TENANT_HEADER)).toBeNull();
  });

  test("is kept in the tab, and marks addresses", () => {
    expect(addressed("/a?b=1")).toBe("/a?b=1");
    actFor("a&b");
    expect(actingFor()).toBe("a&b");
    expect(sessionStorage.getItem("modelyard.tenant")).toBe("a&b");
    expect(addressed("/a")).toBe("/a?tenant=a%26b");
    expect(addressed("/a?b=1")).toBe("/a?b=1&tenant=a%26b");
    actFor("");
    expect(sessionStorage.getItem("modelyard.tenant")).toBeNull();
  });
});

describe("a refusal", () => {
  const calls: [string, () => Promise<unknown>][] = [
    ["of a list", () => api.all("keys")],
    ["of a described call", () => api.providers()],
    ["of the tenants", () => api.tenants()],
    ["of a stream", () => collect(events("/admin/v1/runs/1/events", {}))],
  ];

  test.each(calls)("%s has the server's words", async (_, call) => {
    serve(() => json({ error: { message: "Not allowed", code: "forbidden" } }, 403));
    const onExpired = vi.spyOn(session, "onExpired");
    await expect(call()).rejects.toMatchObject({ status: 403, message: "Not allowed", code: "forbidden" });
    expect(onExpired).not.toHaveBeenCalled();
  });

  test.each(calls)("%s asks for a sign-in once if the session expired", async (_, call) => {
    serve(() => json({ error: { message: "Sign in" } }, 401));
    const onExpired = vi.spyOn(session, "onExpired");
    await expect(call()).rejects.toMatchObject({ status: 401 });
    expect(onExpired).toHaveBeenCalledTimes(1);
  });

  test("for want of a connection has no words", async () => {
    serve(() => Promise.reject(new TypeError("fetch failed")));
    await expect(api.providers()).rejects.toMatchObject({ status: 0, message: "" });
  });
});

describe("a chat", () => {
  const delta = (change: object) => ({ choices: [{ delta: change }] });
  const toolCall = (index: number, name: string, text: string) =>
    delta({ tool_calls: [{ index, function: { name, arguments: text } }] });
  const EVENTS = [
    delta({ reasoning_content: "Hm … 思考" }),
    delta({ content: "Hello" }),
    toolCall(0, "search", '{"q":'),
    toolCall(1, "add", "{}"),
    toolCall(0, "", '"ü"}'),
    { choices: [], usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 } },
  ];
  const bytes = new TextEncoder().encode(
    `${EVENTS.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("")}data: [DONE]\n\n`,
  );
  const PIECES = [
    { thought: "Hm … 思考" },
    { text: "Hello" },
    { tools: [{ name: "search", arguments: '{"q":' }] },
    {
      tools: [
        { name: "search", arguments: '{"q":' },
        { name: "add", arguments: "{}" },
      ],
    },
    {
      tools: [
        { name: "search", arguments: '{"q":"ü"}' },
        { name: "add", arguments: "{}" },
      ],
    },
    { usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 } },
  ];
  const read = async (chunks: Uint8Array[]) => {
    const callIds: string[] = [];
    serve(() => new Response(streamOf(chunks), { headers: { "x-request-id": "call-1" } }));
    const pieces: unknown[] = [];
    // Each piece as it was when it came: later ones must not need it.
    for await (const piece of chat({ model: "m" }, new AbortController().signal, (id) => callIds.push(id)))
      pieces.push(structuredClone(piece));
    return { callIds, pieces };
  };

  test("is read piece by piece, wherever the stream is cut", async () => {
    for (const seed of seeds(60)) {
      const random = new Random(seed);
      const positions = random.list(30, () => random.integer(0, bytes.length));
      expect(await read(cutAt(bytes, positions)), `seed ${seed}`).toEqual({ callIds: ["call-1"], pieces: PIECES });
    }
  });

  test("asks for a stream with its usage", async () => {
    const requests = serve(() => new Response(streamOf([bytes])));
    await collect(chat({ model: "m", stream: false }, new AbortController().signal, () => undefined));
    expect(await requests[0]!.json()).toEqual({ model: "m", stream: true, stream_options: { include_usage: true } });
  });

  test("that is given up ends with an abort", async () => {
    const controller = new AbortController();
    controller.abort();
    serve(() => new Response(streamOf([bytes])));
    const error = await collect(chat({}, controller.signal, () => undefined)).catch((reason: unknown) => reason);
    expect(isAbort(error)).toBe(true);
  });
});

test("events of a run come in their order", async () => {
  const runEvents = [{ event: "run" }, { event: "node_started", node_id: "1" }, { event: "end" }];
  const requests = serve(() => new Response(streamOf([eventStream(runEvents)])));
  const read = await collect(events("/admin/v1/apps/x/runs", { method: "POST", body: "{}" }));
  expect(read).toEqual(runEvents);
  expect(requests[0]!.headers.get("content-type")).toBe("application/json");
});
