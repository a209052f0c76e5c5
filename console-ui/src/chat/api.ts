// What an app's page asks of the server. It knows no key: the address names the app, and a number that this browser made
// names its user. Its types are made from the server's own description of its API.
import createClient from "openapi-fetch";
import { browserStorage } from "../browser-storage";
import { eventsIn, reached, refusalOf } from "../calls";
import type { Uploaded } from "../components/inputs";
import type { components, paths } from "./schema";

export type Shape<Name extends keyof components["schemas"]> = components["schemas"][Name];
export type Site = Awaited<ReturnType<typeof api.site>>;
export type Rating = "like" | "dislike" | null;

export const token = location.pathname.split("/")[2] ?? "";

const newNumber = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
const visitor = browserStorage.get("modelyard.visitor") ?? newNumber();
browserStorage.set("modelyard.visitor", visitor);

const client = createClient<paths>({ fetch: reached, headers: { "x-visitor": visitor } });
client.use({
  onResponse: async ({ response }) => {
    if (!response.ok) throw await refusalOf(response);
  },
});

const answered = async <T>(call: Promise<{ data?: T }>): Promise<T> => (await call).data as T;
const APP = { path: { token } };
const app = <Names extends object>(names: Names) => ({ path: { token, ...names } });

// What this page reads of the events of an answer; their shape is Dify's.
export interface AnswerEvent {
  event: string;
  task_id?: string;
  conversation_id?: string;
  message_id?: string;
  workflow_run_id?: string;
  answer?: string;
  message?: string;
  id?: string;
  thought?: string;
  tool?: string;
  tool_input?: string;
  observation?: string;
  type?: string;
  url?: string;
  metadata?: { retriever_resources?: Source[] };
  data?: {
    text?: string;
    reasoning?: string;
    id?: string;
    label?: string;
    title?: string;
    status?: string;
    error?: string;
    outputs?: Record<string, unknown> | null;
  } & Partial<WaitingForm>;
}
export interface Source {
  document_name?: string;
  title?: string;
  content?: string;
}
// A form that somebody has to fill in before a run can go on.
export interface WaitingForm {
  form_token: string;
  form_content: string;
  inputs: { type: string; output_variable_name: string }[];
  actions: { id: string; title: string; button_style: string }[];
  resolved_default_values: Record<string, unknown>;
}

async function* events(call: Promise<{ response: Response }>): AsyncGenerator<AnswerEvent> {
  yield* eventsIn<AnswerEvent>((await call).response);
}

const STREAMED = { response_mode: "streaming", user: "" } as const;
const UNREAD = { parseAs: "stream" } as const;

const kindOf = (file: File): string => {
  const family = file.type.split("/")[0] ?? "";
  return ["image", "audio", "video"].includes(family) ? family : "document";
};

// The schema describes a form with files as text.
const formOf = (file: Blob, name: string): string => {
  const form = new FormData();
  form.append("file", file, name);
  return form as unknown as string;
};

export const api = {
  site: () => answered(client.GET("/chat/{token}/v1/site", { params: APP })),
  info: () => answered(client.GET("/chat/{token}/v1/info", { params: APP })),
  parameters: () => answered(client.GET("/chat/{token}/v1/parameters", { params: APP })),

  chat: (body: Shape<"ChatInput">, signal: AbortSignal) =>
    events(
      client.POST("/chat/{token}/v1/chat-messages", { params: APP, body: { ...body, ...STREAMED }, signal, ...UNREAD }),
    ),
  complete: (inputs: Record<string, unknown>, signal: AbortSignal) =>
    events(
      client.POST("/chat/{token}/v1/completion-messages", {
        params: APP,
        body: { inputs, ...STREAMED },
        signal,
        ...UNREAD,
      }),
    ),
  run: (inputs: Record<string, unknown>, signal: AbortSignal) =>
    events(
      client.POST("/chat/{token}/v1/workflows/run", { params: APP, body: { inputs, ...STREAMED }, signal, ...UNREAD }),
    ),
  moreLike: (message_id: string, signal: AbortSignal) =>
    events(
      client.POST("/chat/{token}/v1/messages/{message_id}/more-like-this", {
        params: app({ message_id }),
        body: STREAMED,
        signal,
        ...UNREAD,
      }),
    ),
  watch: (workflow_run_id: string, signal: AbortSignal) =>
    events(
      client.GET("/chat/{token}/v1/workflow/{workflow_run_id}/events", {
        params: { ...app({ workflow_run_id }), query: { after: 0 } },
        signal,
        ...UNREAD,
      }),
    ),
  stopChat: (task_id: string) =>
    client.POST("/chat/{token}/v1/chat-messages/{task_id}/stop", { params: app({ task_id }), body: {} }),
  stopCompletion: (task_id: string) =>
    client.POST("/chat/{token}/v1/completion-messages/{task_id}/stop", { params: app({ task_id }), body: {} }),
  stopRun: (task_id: string) =>
    client.POST("/chat/{token}/v1/workflows/tasks/{task_id}/stop", { params: app({ task_id }), body: {} }),
  fill: (form_token: string, inputs: Record<string, unknown>, action: string) =>
    client.POST("/chat/{token}/v1/form/human_input/{form_token}", {
      params: app({ form_token }),
      body: { inputs, action },
    }),

  conversations: () =>
    answered(client.GET("/chat/{token}/v1/conversations", { params: { ...APP, query: { limit: 100 } } })).then(
      (body) => body.data,
    ),
  messages: (conversation_id: string) =>
    answered(
      client.GET("/chat/{token}/v1/messages", { params: { ...APP, query: { conversation_id, limit: 100 } } }),
    ).then((body) => body.data),
  rename: (conversation_id: string, name: string) =>
    client.POST("/chat/{token}/v1/conversations/{conversation_id}/name", {
      params: app({ conversation_id }),
      body: { name },
    }),
  erase: (conversation_id: string) =>
    client.DELETE("/chat/{token}/v1/conversations/{conversation_id}", { params: app({ conversation_id }), body: {} }),
  rate: (message_id: string, rating: Rating) =>
    client.POST("/chat/{token}/v1/messages/{message_id}/feedbacks", { params: app({ message_id }), body: { rating } }),
  suggested: (message_id: string) =>
    answered(client.GET("/chat/{token}/v1/messages/{message_id}/suggested", { params: app({ message_id }) })).then(
      (body) => body.data,
    ),

  upload: async (file: File): Promise<Uploaded> => {
    const shown = await answered(
      client.POST("/chat/{token}/v1/files/upload", { params: APP, body: formOf(file, file.name) }),
    );
    return { type: kindOf(file), transfer_method: "local_file", upload_file_id: shown.id };
  },
  transcribe: (sound: Blob) =>
    answered(client.POST("/chat/{token}/v1/audio-to-text", { params: APP, body: formOf(sound, "speech.wav") })).then(
      (body) => body.text,
    ),
  speech: (message_id: string): Promise<Blob> =>
    answered(client.POST("/chat/{token}/v1/text-to-audio", { params: APP, body: { message_id }, parseAs: "blob" })),

  // A stored file, fetched without anything that says who asks.
  stored: async (address: string): Promise<Blob> => {
    const answer = await fetch(address, { credentials: "omit", redirect: "error", referrerPolicy: "no-referrer" });
    if (!answer.ok) throw await refusalOf(answer);
    return answer.blob();
  },
};
