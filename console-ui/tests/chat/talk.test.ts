import { describe, expect, test } from "vitest";
import type { AnswerEvent } from "../../src/chat/api";
import { CHAT_WORDS } from "../../src/chat/messages";
import { type Answer, isChat, Talk } from "../../src/chat/talk";
import { Random, seeds } from "../random";
import { cutAt, eventStream, json, serve, streamOf } from "../server";

const BASE = "/chat/app-token/v1";

interface App {
  mode?: string;
  // The bytes of the answer, as they arrive.
  chunks?: Uint8Array[];
  respond?: (path: string, request: Request) => Response | undefined;
  parameters?: object;
}

// A server with one app.
const serveApp = ({ mode = "advanced-chat", chunks = [], respond, parameters = {} }: App) =>
  serve((request) => {
    const path = new URL(request.url).pathname.replace(BASE, "");
    const response = respond?.(path, request);
    if (response) return response;
    switch (path) {
      case "/site":
        return json({ title: "App" });
      case "/info":
        return json({ mode });
      case "/parameters":
        return json({ user_input_form: [], ...parameters });
      case "/conversations":
        return json({ data: [] });
      case "/chat-messages":
      case "/workflows/run":
      case "/completion-messages":
        return new Response(streamOf(chunks), { headers: { "content-type": "text/event-stream" } });
      default:
        return json({ message: `no ${path}` }, 404);
    }
  });

const begun = async (app: App) => {
  const requests = serveApp(app);
  const talk = new Talk();
  await talk.begin();
  return { talk, requests };
};

const answerOf = (talk: Talk): Answer => {
  const answer = talk.state.turns.findLast((turn) => turn.kind === "answer");
  if (!answer) throw new Error("no answer");
  return answer;
};

const statusOf = (talk: Talk) => talk.state.status(CHAT_WORDS.en);
const errorOf = (talk: Talk) => answerOf(talk).wrong?.(CHAT_WORDS.en);

const EVENTS: AnswerEvent[] = [
  { event: "workflow_started", task_id: "task", conversation_id: "conversation" },
  { event: "reasoning_chunk", data: { reasoning: "Denken … " } },
  { event: "reasoning_chunk", data: { reasoning: "思考" } },
  { event: "message", answer: "Grüße, " },
  { event: "agent_thought", id: "t1", thought: "look", tool: "search", tool_input: '{"q":1}' },
  { event: "agent_thought", id: "t1", thought: "look", tool: "search", tool_input: '{"q":1}', observation: "found" },
  { event: "message", answer: "世界 🌍\ndata: x" },
  { event: "message_file", url: "/files/1", type: "image" },
  { event: "message_end", message_id: "m1", metadata: { retriever_resources: [{ document_name: "doc" }] } },
  { event: "workflow_finished", data: { status: "succeeded", outputs: { answer: "…" } } },
];

describe("an answer", () => {
  const bytes = eventStream(EVENTS);
  const expected = {
    text: "Grüße, 世界 🌍\ndata: x",
    thought: "Denken … 思考",
    steps: [{ id: "t1", text: 'look\n→ search {"q":1}\nfound' }],
    files: [{ url: "/files/1", type: "image" }],
    sources: [{ document_name: "doc" }],
    message: "m1",
    wrong: null,
    isBusy: false,
    isWhole: true,
  };

  test("is the same at whatever byte its stream is cut", async () => {
    for (let position = 0; position <= bytes.length; position++) {
      const { talk } = await begun({ chunks: cutAt(bytes, [position]) });
      expect(await talk.send("hello")).toBe(true);
      expect(answerOf(talk), `cut at byte ${position}`).toMatchObject(expected);
    }
  });

  test("is the same in any number of chunks", async () => {
    for (const seed of seeds(40)) {
      const random = new Random(seed);
      const positions = random.list(40, () => random.integer(0, bytes.length));
      const { talk } = await begun({ chunks: cutAt(bytes, positions) });
      await talk.send("hello");
      expect(answerOf(talk), `seed ${seed}`).toMatchObject(expected);
      expect(talk.state).toMatchObject({ conversation: "conversation", isRunning: false });
      expect(statusOf(talk)).toBe(CHAT_WORDS.en.done);
    }
  });

  test("is shown to all who watch", async () => {
    const { talk } = await begun({ chunks: [bytes] });
    let count = 0;
    const unsubscribe = talk.subscribe(() => count++);
    await talk.send("hello");
    expect(talk.snapshot()).toBe(talk.state);
    expect(count).toBeGreaterThan(1);
    unsubscribe();
    const before = count;
    talk.fresh();
    expect(count).toBe(before);
  });

  test("may be replaced while it is written", async () => {
    const events = [
      { event: "message", answer: "bad" },
      { event: "message_replace", answer: "moderated" },
    ];
    const { talk } = await begun({ chunks: [eventStream(events)] });
    await talk.send("hello");
    expect(answerOf(talk).text).toBe("moderated");
  });

  test("continues the conversation, with the form's values", async () => {
    const { talk, requests } = await begun({ chunks: [bytes] });
    await talk.send("first");
    await talk.send("second");
    const bodies = requests.filter((request) => request.url.endsWith("/chat-messages"));
    const [first, second] = await Promise.all(bodies.map((request) => request.json() as Promise<object>));
    expect(first).not.toHaveProperty("conversation_id");
    expect(second).toMatchObject({ query: "second", conversation_id: "conversation", response_mode: "streaming" });
    expect(requests.every((request) => /^[0-9a-f]{32}$/.test(request.headers.get("x-visitor") ?? ""))).toBe(true);
  });
});

describe("an answer that fails", () => {
  test("in the stream says what the server says", async () => {
    const events = [
      { event: "message", answer: "part" },
      { event: "error", message: "Model is gone" },
    ];
    const { talk } = await begun({ chunks: [eventStream(events)] });
    expect(await talk.send("hello")).toBe(true);
    expect(answerOf(talk)).toMatchObject({ text: "part", isBusy: false, isWhole: false });
    expect(errorOf(talk)).toBe("Model is gone");
  });

  test("before the stream can be sent again", async () => {
    const respond = (path: string) =>
      path === "/chat-messages" ? json({ message: "Too many requests" }, 429) : undefined;
    const { talk } = await begun({ respond });
    expect(await talk.send("hello")).toBe(false);
    expect(errorOf(talk)).toBe("Too many requests");
    expect(talk.state.isRunning).toBe(false);
  });

  test("as a workflow shows the run's error", async () => {
    const events = [{ event: "workflow_finished", data: { status: "failed", error: "no model" } }];
    const { talk } = await begun({ mode: "workflow", chunks: [eventStream(events)] });
    await talk.run();
    expect(errorOf(talk)).toBe("no model");
  });

  test("since the connection broke keeps what came", async () => {
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => controller.enqueue(eventStream([{ event: "message", answer: "part" }])),
      pull: (controller) => controller.error(new TypeError("network error")),
    });
    const respond = (path: string) => (path === "/chat-messages" ? new Response(body) : undefined);
    const { talk } = await begun({ respond });
    expect(await talk.send("hello")).toBe(false);
    expect(answerOf(talk).text).toBe("part");
    expect(errorOf(talk)).toBe(CHAT_WORDS.en.lost);
  });
});

describe("a run that is stopped", () => {
  // An answer that never ends by itself.
  const endless = (events: object[], onCancel: () => void) =>
    new ReadableStream<Uint8Array>({
      start: (controller) => controller.enqueue(eventStream(events)),
      cancel: onCancel,
    });

  test("ends without an error if the server cannot be told", async () => {
    let start = () => {};
    const started = new Promise<void>((resolve) => {
      start = resolve;
    });
    const respond = (path: string, request: Request) => {
      if (path !== "/chat-messages") return undefined;
      const body = endless([{ event: "message", answer: "part" }], () => undefined);
      const controller = new AbortController();
      request.signal.addEventListener("abort", () => controller.abort(request.signal.reason));
      start();
      return new Response(body.pipeThrough(new TransformStream(), { signal: controller.signal }));
    };
    const { talk } = await begun({ respond });
    const sent = talk.send("hello");
    await started;
    await talk.stop();
    expect(await sent).toBe(false);
    expect(answerOf(talk)).toMatchObject({ wrong: null, isBusy: false });
    expect(talk.state.isRunning).toBe(false);
  });
});

describe("a form that a run waits for", () => {
  const form = { form_token: "f1", form_content: "Sure?", inputs: [], actions: [], resolved_default_values: {} };
  const waiting = [
    { event: "message", answer: "before" },
    { event: "human_input_required", workflow_run_id: "r1", data: form },
  ];
  const resumed = [
    { event: "human_input_required", workflow_run_id: "r1", data: form },
    { event: "message", answer: "after" },
    { event: "message_end", message_id: "m2" },
  ];

  test("is filled in, and the run is followed from its beginning", async () => {
    const filledForms: unknown[] = [];
    const respond = (path: string, request: Request) => {
      if (path === "/form/human_input/f1") {
        filledForms.push(request.json());
        return json({});
      }
      return path === "/workflow/r1/events" ? new Response(streamOf([eventStream(resumed)])) : undefined;
    };
    const { talk } = await begun({ chunks: [eventStream(waiting)], respond });
    const shown = new Promise<void>((resolve) => {
      const unsubscribe = talk.subscribe(() => {
        const turn = talk.state.turns.at(-1);
        if (turn?.kind !== "answer" || !turn.form || statusOf(talk) !== CHAT_WORDS.en.waiting) return;
        unsubscribe();
        resolve();
      });
    });
    const sent = talk.send("hello");
    await shown;
    talk.fill({ values: { reason: "ok" }, action: "approve" });
    expect(await sent).toBe(true);
    expect(await Promise.all(filledForms)).toEqual([{ inputs: { reason: "ok" }, action: "approve" }]);
    expect(answerOf(talk)).toMatchObject({ text: "after", form: null, message: "m2", isWhole: true });
  });
});

describe("an app that is no chat", () => {
  test.each([
    ["one output is its text", { text: "result" }, "result"],
    ["several outputs have their names", { a: "x", b: [1] }, "**a**\n\nx\n\n**b**\n\n```json\n[\n  1\n]\n```"],
    ["outputs of the system are left out", { __x: 1, text: "result" }, "result"],
  ])("%s", async (_, outputs, expected) => {
    const events = [{ event: "workflow_finished", data: { status: "succeeded", outputs } }];
    const { talk } = await begun({ mode: "workflow", chunks: [eventStream(events)] });
    expect(isChat(talk.state)).toBe(false);
    await talk.run();
    expect(answerOf(talk)).toMatchObject({ text: expected, isWhole: true });
  });
});

describe("the beginning", () => {
  test("greets, and offers questions", async () => {
    const parameters = { opening_statement: "Hi!", suggested_questions: ["What?", ""] };
    const { talk } = await begun({ parameters });
    expect(answerOf(talk)).toMatchObject({ text: "Hi!", questions: ["What?"], isBusy: false });
  });

  test("asks for the app's form first", async () => {
    const parameters = {
      user_input_form: [
        { "text-input": { variable: "name", required: true } },
        { select: { variable: "x", label: "X", options: ["a"] } },
      ],
    };
    const { talk } = await begun({ parameters });
    expect(talk.state.isAsking).toBe(true);
    expect(talk.state.about?.form).toMatchObject([
      { type: "text-input", variable: "name", label: "name", required: true, options: [] },
      { type: "select", variable: "x", label: "X", required: false, options: ["a"] },
    ]);
  });

  test("says if the app cannot be reached", async () => {
    const { talk } = await begun({ respond: () => json({ message: "No such app" }, 404) });
    expect(statusOf(talk)).toBe("No such app");
    expect(talk.state.about).toBeNull();
  });
});
