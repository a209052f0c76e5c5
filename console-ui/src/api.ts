// What the console asks of the server. Its types are made from the server's own description of its API: a field that
// changes there breaks the build here. A session is a cookie: nothing secret is ever held in the page.
import createClient, { type Middleware } from "openapi-fetch";
import { eventsIn, type Refused, reached, refusalOf } from "./calls";
import type { components, paths } from "./schema";

type Shapes = components["schemas"];
export type Shape<Name extends keyof Shapes> = Shapes[Name];

export interface Account {
  id: string;
  email: string;
  name: string;
  role: string;
  tenant: string;
  is_enabled?: boolean;
  seen_at?: number | null;
}
export interface Who {
  mode: "single" | "setup" | "accounts";
  account: Account | null;
  elsewhere?: string;
}

// Whoever is signed out in the middle of something signs in again over it, and goes on.
export const session = { onExpired: () => {}, onBack: () => {} };

const refusal = (answer: Response): Promise<Refused> => {
  if (answer.status === 401) session.onExpired();
  return refusalOf(answer);
};

// The operator may act for another tenant: in this tab, for as long as it is open.
const ACTING = "modelyard.tenant";
let acting = sessionStorage.getItem(ACTING) ?? "";
export const actingFor = () => acting;
export const actFor = (tenant: string) => {
  acting = tenant;
  if (tenant) sessionStorage.setItem(ACTING, tenant);
  else sessionStorage.removeItem(ACTING);
};
// An address for what the page does not fetch itself: downloads, the line of events.
export const addressed = (path: string) =>
  acting ? `${path}${path.includes("?") ? "&" : "?"}tenant=${encodeURIComponent(acting)}` : path;

export const fetchChecked = async (input: RequestInfo, init?: RequestInit): Promise<Response> => {
  const request = new Request(input, init);
  if (acting) request.headers.set("x-modelyard-tenant", acting);
  const answer = await reached(request);
  if (!answer.ok) throw await refusal(answer);
  return answer;
};

const refuses: Middleware = {
  onResponse: async ({ response }) => {
    if (!response.ok) throw await refusal(response);
  },
};
const admin = createClient<paths>({ fetch: (request) => fetchChecked(request) });
admin.use(refuses);

const taken = async <T>(call: Promise<{ data?: T }>): Promise<T> => (await call).data as T;
const byId = (id: string) => ({ params: { path: { id } } });

// The operator's word that a package need not be signed.
const unsigned = (is: boolean): { unsigned?: string } => (is ? { unsigned: "true" } : {});

const send = async <T>(path: string, method = "GET", body?: unknown): Promise<T> =>
  (
    await fetchChecked(path, {
      method,
      headers: { "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
  ).json() as Promise<T>;

// Things that are listed, made, changed and removed alike.
type Plural = "keys" | "users" | "tenants" | "limits" | "routes" | "credentials" | "models" | "defaults";
type Views = {
  keys: Shape<"KeyView">;
  users: Shape<"UserView">;
  tenants: Shape<"TenantView">;
  limits: Shape<"LimitView">;
  routes: Shape<"RouteView">;
  credentials: Shape<"CredentialView">;
  models: Shape<"CustomModelView">;
  defaults: Shape<"DefaultModelView">;
};
// Of a new key, the key itself is told, this once.
type Created = Omit<Views, "keys"> & { keys: Shape<"CreatedKey"> };
type Inputs = {
  keys: Shape<"KeyInput">;
  users: Shape<"UserInput">;
  tenants: Shape<"TenantInput">;
  limits: Shape<"LimitInput">;
  routes: Shape<"RouteInput">;
  credentials: Shape<"CredentialInput">;
  models: Shape<"ModelInput">;
  defaults: Shape<"DefaultInput">;
};

// Whom the operator may act for: asked as whoever one is, not as whom one acts for.
const tenants = async () => {
  const answer = await fetch("/admin/v1/tenants?limit=1000");
  if (!answer.ok) throw await refusal(answer);
  return ((await answer.json()) as { data: Shape<"TenantView">[] }).data;
};

const all = <P extends Plural>(plural: P) =>
  send<{ data: Views[P][] }>(`/admin/v1/${plural}?limit=1000`).then((body) => body.data);
const make = <P extends Plural>(plural: P, value: Partial<Inputs[P]> & { name: string }) =>
  send<Created[P]>(`/admin/v1/${plural}`, "POST", value);
const change = <P extends Plural>(plural: P, id: string, value: Partial<Inputs[P]> & { name?: string }) =>
  send<Views[P]>(`/admin/v1/${plural}/${encodeURIComponent(id)}`, "PATCH", value);
const remove = (plural: Plural | "apps" | "plugins", id: string) =>
  send<unknown>(`/admin/v1/${plural}/${encodeURIComponent(id)}`, "DELETE");

export interface RequestFilter {
  since?: number;
  until?: number;
  limit?: number;
  offset?: number;
  id?: string;
  outcome?: string;
  status?: string;
  provider?: string;
  model?: string;
  type?: string;
  user?: string;
  key?: string;
  credential?: string;
  unauthenticated?: boolean;
}

// Datasets are the knowledge API's, whose description is Dify's: these are the fields that are used here.
export interface Dataset {
  id: string;
  name: string;
  description: string | null;
  document_count: number;
  word_count: number;
  indexing_technique: string | null;
  embedding_model: string | null;
  created_at: number;
}
export interface Doc {
  id: string;
  name: string;
  indexing_status: string;
  error: string | null;
  enabled: boolean;
  word_count: number;
  tokens: number;
  created_at: number;
  display_status: string;
  hit_count: number;
}
export interface Segment {
  id: string;
  position: number;
  content: string;
  answer: string | null;
  word_count: number;
  tokens: number;
  enabled: boolean;
  hit_count: number;
}
export interface Hit {
  segment: { id: string; content: string; document: { id: string; name: string } };
  score: number | null;
}

// The progress of a job that adds the rows of a CSV file to a document.
export interface SegmentImport {
  job_id: string;
  job_status: string;
  total: number;
  added: number;
  failed: number;
  errors: { line: number; message: string }[];
  error: string | null;
}
// Unix times in seconds, and the minutes by which the caller's clock is ahead of UTC.
export interface StatisticsQuery {
  since: number;
  until: number;
  offset: number;
}

export const api = {
  all,
  make,
  change,
  remove,
  tenants,
  who: () => send<Who>("/console/api/session"),
  signIn: (email: string, password: string) =>
    send<{ account: Account }>("/console/api/session", "POST", { email, password }),
  setUp: (email: string, name: string, password: string) =>
    send<{ account: Account }>("/console/api/setup", "POST", { email, name, password }),
  signOut: () => send<unknown>("/console/api/session", "DELETE"),
  accept: (token: string, name: string, password: string) =>
    send<{ account: Account }>("/console/api/invitations/accept", "POST", { token, name, password }),
  sessions: () =>
    send<{ data: { id: string; agent: string; created_at: number; is_current: boolean }[] }>(
      "/console/api/sessions",
    ).then((body) => body.data),
  endSession: (id: string) => send<unknown>(`/console/api/sessions/${id}`, "DELETE"),
  accounts: () => send<{ data: Account[] }>("/console/api/accounts").then((body) => body.data),
  changeAccount: (id: string, value: { role?: string; is_enabled?: boolean }) =>
    send<unknown>(`/console/api/accounts/${id}`, "PATCH", value),
  invite: (email: string, role: string) => send<{ token: string }>("/console/api/invitations", "POST", { email, role }),
  audit: () =>
    send<{ data: { at: number; who: string; what: string; subject: string }[] }>("/console/api/audit").then(
      (body) => body.data,
    ),

  providers: () => taken(admin.GET("/admin/v1/providers")).then((body) => body.data),
  provider: (id: string) => taken(admin.GET("/admin/v1/providers/{id}", byId(id))),
  checkCredential: (id: string, values: Record<string, unknown>) =>
    taken(admin.POST("/admin/v1/providers/{id}/check", { ...byId(id), body: { values } })),
  catalogue: (query: { type?: string; ready?: boolean } = {}) =>
    taken(admin.GET("/admin/v1/catalogue", { params: { query } })).then((body) => body.data),
  weights: () => taken(admin.GET("/admin/v1/weights")).then((body) => body.data),
  removeWeights: (id: string) => taken(admin.DELETE("/admin/v1/weights/{id}", byId(id))),
  plan: (body: { model: string; type?: string; user?: string; key?: string }) =>
    taken(admin.POST("/admin/v1/plan", { body })),
  resting: () => taken(admin.GET("/admin/v1/resting")).then((body) => body.data),

  usage: (by: string, since: number, until?: number) => api.usageReport(by, since, until).then((body) => body.data),
  usageReport: (by: string, since: number, until?: number) =>
    taken(admin.GET("/admin/v1/usage", { params: { query: { by, since, ...(until ? { until } : {}) } } })),
  latency: (since: number, until: number) =>
    taken(admin.GET("/admin/v1/latency", { params: { query: { since, until } } })).then((body) => body.data),
  budgets: () => taken(admin.GET("/admin/v1/budgets")).then((body) => body.data),
  requests: (query: RequestFilter) => taken(admin.GET("/admin/v1/requests", { params: { query } })),
  call: (id: string) => taken(admin.GET("/admin/v1/calls/{id}", byId(id))),
  replay: (id: string, model: string) =>
    taken(admin.POST("/admin/v1/calls/{id}/replay", { ...byId(id), body: { model } })),

  plugins: () => taken(admin.GET("/admin/v1/plugins")),
  pluginLogs: (id: string) => taken(admin.GET("/admin/v1/plugins/{id}/logs", byId(id))).then((body) => body.data),
  grant: (id: string, granted: string[]) =>
    taken(admin.PATCH("/admin/v1/plugins/{id}", { ...byId(id), body: { granted } })),
  market: (q: string) => taken(admin.GET("/admin/v1/market", { params: { query: { q } } })).then((body) => body.data),
  installFromMarket: (id: string, isUnsigned = false) =>
    taken(admin.POST("/admin/v1/plugins/market", { body: { id }, params: { query: unsigned(isUnsigned) } })),
  install: async (file: Blob, isUnsigned = false) =>
    (
      await fetchChecked(`/admin/v1/plugins?${new URLSearchParams(unsigned(isUnsigned))}`, {
        method: "POST",
        body: file,
        headers: { "content-type": "application/octet-stream" },
      })
    ).json() as Promise<Shape<"InstallTask">>,
  installTask: (id: string) => taken(admin.GET("/admin/v1/plugins/tasks/{id}", byId(id))),

  apps: () => taken(admin.GET("/admin/v1/apps")).then((body) => body.data),
  app: (id: string) => taken(admin.GET("/admin/v1/apps/{id}", byId(id))),
  appFile: async (id: string, version?: string) =>
    (await fetchChecked(`/admin/v1/apps/${encodeURIComponent(id)}/file${version ? `?version=${version}` : ""}`)).text(),
  saveApp: (id: string, file: string, base: string) =>
    taken(admin.PUT("/admin/v1/apps/{id}/file", { ...byId(id), body: { file, base } })),
  importApp: (file: string, publish = true, name?: string) =>
    taken(admin.POST("/admin/v1/apps", { body: { file, publish, ...(name ? { name } : {}) } })),
  checkApp: (file: string) => taken(admin.POST("/admin/v1/apps/check", { body: { file } })),
  publish: (id: string, name = "") => taken(admin.POST("/admin/v1/apps/{id}/publish", { ...byId(id), body: { name } })),
  restore: (id: string, version: string) =>
    taken(admin.POST("/admin/v1/apps/{id}/restore", { ...byId(id), body: { version } })),
  setApp: (id: string, body: Shape<"AppChangeInput">) =>
    taken(admin.PATCH("/admin/v1/apps/{id}", { ...byId(id), body })),
  templates: () => taken(admin.GET("/admin/v1/app-templates")).then((body) => body.data),
  appFromTemplate: (template: string, body: Shape<"AppTemplateInput">) =>
    taken(admin.POST("/admin/v1/app-templates/{template}/apps", { params: { path: { template } }, body })),
  duplicate: (id: string, name: string) =>
    taken(admin.POST("/admin/v1/apps/{id}/duplicate", { ...byId(id), body: { name } })),
  appTags: () => taken(admin.GET("/admin/v1/app-tags")).then((body) => body.data),
  addAppTag: (name: string) => taken(admin.POST("/admin/v1/app-tags", { body: { name } })),
  renameAppTag: (tag: string, name: string) =>
    taken(admin.PATCH("/admin/v1/app-tags/{tag}", { params: { path: { tag } }, body: { name } })),
  removeAppTag: (tag: string) => taken(admin.DELETE("/admin/v1/app-tags/{tag}", { params: { path: { tag } } })),
  statistics: (id: string, query: StatisticsQuery) =>
    taken(admin.GET("/admin/v1/apps/{id}/statistics", { params: { path: { id }, query } })).then(
      // The server answers with CSV if that is asked for, so the description has both.
      (body) => body as Shape<"StatisticsPage">,
    ),
  traces: (id: string) => taken(admin.GET("/admin/v1/apps/{id}/traces", byId(id))),
  saveTrace: (id: string, name: string, body: Shape<"TraceDestinationInput">) =>
    taken(admin.PUT("/admin/v1/apps/{id}/traces/{name}", { params: { path: { id, name } }, body })),
  testTrace: (id: string, name: string) =>
    taken(admin.POST("/admin/v1/apps/{id}/traces/{name}/test", { params: { path: { id, name } } })),
  removeTrace: (id: string, name: string) =>
    taken(admin.DELETE("/admin/v1/apps/{id}/traces/{name}", { params: { path: { id, name } } })),
  generatePrompt: (body: Shape<"GenerationInput">) => taken(admin.POST("/admin/v1/generate/prompt", { body })),
  generateCode: (body: Shape<"CodeGenerationInput">) => taken(admin.POST("/admin/v1/generate/code", { body })),
  generateSchema: (body: Shape<"GenerationInput">) => taken(admin.POST("/admin/v1/generate/schema", { body })),
  appKeys: (id: string) => taken(admin.GET("/admin/v1/apps/{id}/keys", byId(id))).then((body) => body.data),
  makeAppKey: (id: string) => taken(admin.POST("/admin/v1/apps/{id}/keys", byId(id))),
  removeAppKey: (id: string, key: string) =>
    taken(admin.DELETE("/admin/v1/apps/{id}/keys/{key}", { params: { path: { id, key } } })),
  appForm: (id: string, draft = false, root = "") =>
    taken(
      admin.GET("/admin/v1/apps/{id}/form", { params: { path: { id }, query: { draft, ...(root ? { root } : {}) } } }),
    ),
  appFileFor: async (id: string, file: File) => {
    const form = new FormData();
    form.append("file", file);
    return (
      await fetchChecked(`/admin/v1/apps/${encodeURIComponent(id)}/files`, { method: "POST", body: form })
    ).json() as Promise<Shape<"UploadedFile">>;
  },
  triggers: (id: string) => taken(admin.GET("/admin/v1/apps/{id}/triggers", byId(id))).then((body) => body.data),
  nodeParts: () => taken(admin.GET("/admin/v1/node-parts")),
  subscriptions: () => taken(admin.GET("/admin/v1/subscriptions")).then((body) => body.data),
  subscribe: (
    plugin: string,
    name: string,
    parameters: Record<string, unknown>,
    credentials: Record<string, unknown>,
  ) => taken(admin.POST("/admin/v1/subscriptions", { body: { plugin, name, parameters, credentials } })),
  unsubscribe: (id: string) => taken(admin.DELETE("/admin/v1/subscriptions/{id}", byId(id))),
  appRuns: (id: string) =>
    taken(admin.GET("/admin/v1/apps/{id}/runs", { params: { path: { id }, query: { limit: 100 } } })),
  testNode: (id: string, file: string, node: string, inputs: Record<string, unknown>) =>
    taken(admin.POST("/admin/v1/apps/{id}/test-node", { ...byId(id), body: { file, node, inputs } })),
  conversations: (id: string) =>
    taken(admin.GET("/admin/v1/apps/{id}/conversations", byId(id))).then((body) => body.data),
  messages: (id: string, conversation: string) =>
    taken(
      admin.GET("/admin/v1/apps/{id}/conversations/{conversation}", { params: { path: { id, conversation } } }),
    ).then((body) => body.data),
  feedback: (id: string) => taken(admin.GET("/admin/v1/apps/{id}/feedback", byId(id))).then((body) => body.data),
  annotations: (id: string) => taken(admin.GET("/admin/v1/apps/{id}/annotations", byId(id))).then((body) => body.data),
  annotate: (id: string, question: string, answer: string) =>
    taken(admin.POST("/admin/v1/apps/{id}/annotations", { ...byId(id), body: { question, answer } })),
  removeAnnotation: (id: string, annotation: string) =>
    taken(admin.DELETE("/admin/v1/apps/{id}/annotations/{annotation}", { params: { path: { id, annotation } } })),
  nodes: () => taken(admin.GET("/admin/v1/nodes")).then((body) => body.data),
  run: (id: string) => taken(admin.GET("/admin/v1/runs/{id}", byId(id))),
  control: (id: string, verb: "stop" | "pause" | "resume") =>
    send<{ done: boolean }>(`/admin/v1/runs/${id}/${verb}`, "POST"),

  datasets: () => send<{ data: Dataset[] }>("/v1/datasets?limit=100").then((body) => body.data),
  dataset: (id: string) => send<Dataset>(`/v1/datasets/${id}`),
  makeDataset: (name: string) =>
    send<Dataset>("/v1/datasets", "POST", { name, indexing_technique: "high_quality", permission: "all_team_members" }),
  removeDataset: (id: string) => fetchChecked(`/v1/datasets/${id}`, { method: "DELETE" }),
  documents: (id: string) => send<{ data: Doc[] }>(`/v1/datasets/${id}/documents?limit=100`).then((body) => body.data),
  removeDocument: (id: string, doc: string) =>
    fetchChecked(`/v1/datasets/${id}/documents/${doc}`, { method: "DELETE" }),
  segments: (id: string, doc: string) =>
    send<{ data: Segment[] }>(`/v1/datasets/${id}/documents/${doc}/segments?limit=100`).then((body) => body.data),
  importSegments: async (id: string, doc: string, file: File, options: { hasHeader: boolean; encoding: string }) => {
    const form = new FormData();
    form.append("file", file);
    form.append("has_header", String(options.hasHeader));
    // Without a name the server reads UTF-8.
    if (options.encoding) form.append("encoding", options.encoding);
    const path = `/v1/datasets/${id}/documents/${doc}/segments/batch_import`;
    return (await fetchChecked(path, { method: "POST", body: form })).json() as Promise<SegmentImport>;
  },
  segmentImport: (id: string, doc: string, job: string) =>
    send<SegmentImport>(`/v1/datasets/${id}/documents/${doc}/segments/batch_import/${job}`),
  upload: async (id: string, file: File, rule: unknown) => {
    const form = new FormData();
    form.append("data", JSON.stringify({ indexing_technique: "high_quality", process_rule: rule }));
    form.append("file", file);
    return (
      await fetchChecked(`/v1/datasets/${id}/document/create-by-file`, { method: "POST", body: form })
    ).json() as Promise<{ document: Doc; batch: string }>;
  },
  retrieve: (id: string, query: string, retrieval_model: unknown) =>
    send<{ records: Hit[] }>(`/v1/datasets/${id}/retrieve`, "POST", { query, retrieval_model }).then(
      (body) => body.records,
    ),
  askDataset: (id: string, query: string) =>
    send<{
      text: string;
      is_found: boolean;
      citations: { number: number; document_name: string; text: string; score: number }[];
    }>(`/v1/datasets/${id}/ask`, "POST", { query }),

  split: (text: string, rule: unknown) =>
    taken(admin.POST("/admin/v1/split", { body: { text, process_rule: rule as Record<string, unknown> } })),

  evaluations: (id: string) => taken(admin.GET("/admin/v1/evaluations/{id}", byId(id))).then((body) => body.data),
  evaluation: (id: string, evaluation: string) =>
    taken(admin.GET("/admin/v1/evaluations/{id}/{evaluation}", { params: { path: { id, evaluation } } })),
  removeEvaluation: (id: string, evaluation: string) =>
    taken(admin.DELETE("/admin/v1/evaluations/{id}/{evaluation}", { params: { path: { id, evaluation } } })),
  writeQuestions: (id: string, count = 20) =>
    taken(admin.POST("/admin/v1/evaluations/{id}/questions", { ...byId(id), body: { count } })).then(
      (body) => body.data,
    ),

  about: () => taken(admin.GET("/admin/v1/about")),
  settings: () => taken(admin.GET("/admin/v1/settings")),
  saveSettings: (text: string, version: number) => taken(admin.PUT("/admin/v1/settings", { body: { text, version } })),
  post: send,
};

// Server-sent events, of whatever is asked with any method.
export async function* events<T extends object>(path: string, init: RequestInit): AsyncGenerator<T> {
  yield* eventsIn<T>(
    await fetchChecked(path, { ...init, headers: { "content-type": "application/json", ...init.headers } }),
  );
}

export interface ToolCall {
  name: string;
  arguments: string;
}
export type Content = string | ({ type: "text"; text: string } | { type: "image_url"; image_url: { url: string } })[];
export interface ChatMessage {
  role: "system" | "user" | "assistant";
  content: Content;
}
export interface Piece {
  text?: string;
  thought?: string;
  tools?: ToolCall[];
  usage?: ChatUsage;
}
export interface ChatUsage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

interface ChatChunk {
  usage?: ChatUsage;
  choices?: {
    delta?: {
      content?: string | null;
      reasoning_content?: string | null;
      tool_calls?: { index: number; function?: { name?: string; arguments?: string } }[];
    };
  }[];
}

// `onCall` is told the call's name, by which it can be looked up.
export async function* chat(
  body: Record<string, unknown>,
  signal: AbortSignal,
  onCall: (id: string) => void,
): AsyncGenerator<Piece> {
  const answer = await fetchChecked("/v1/chat/completions", {
    method: "POST",
    signal,
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
  });
  onCall(answer.headers.get("x-request-id") ?? "");
  const tools: ToolCall[] = [];
  for await (const event of eventsIn<ChatChunk>(answer)) {
    const delta = event.choices?.[0]?.delta;
    const piece: Piece = {};
    if (delta?.content) piece.text = delta.content;
    if (delta?.reasoning_content) piece.thought = delta.reasoning_content;
    for (const call of delta?.tool_calls ?? []) {
      tools[call.index] ??= { name: "", arguments: "" };
      const known = tools[call.index]!;
      known.name += call.function?.name ?? "";
      known.arguments += call.function?.arguments ?? "";
      piece.tools = [...tools];
    }
    if (event.usage) piece.usage = event.usage;
    yield piece;
  }
}
