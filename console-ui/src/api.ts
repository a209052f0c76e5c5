// What the console asks of the server. A session is a cookie: nothing secret is ever held here.

export interface Account { id: string; email: string; name: string; role: string; tenant: string }
export interface Who { mode: "single" | "setup" | "accounts"; account: Account | null }
export interface Model { id: string; model_type: string; context_size: number | null }
export interface Usage {
  model?: string; calls: number; failed: number; prompt_tokens: number; completion_tokens: number; cost: string | null;
  currency: string; unpriced: number;
}

export interface App {
  id: string; name: string; mode: string; description: string; is_enabled: boolean; is_published: boolean; has_draft: boolean;
  page: { is_on: boolean; url: string | null };
}
export interface Imported extends App { warnings: string[]; needs: string[]; replaced: boolean }

export class Refused extends Error {
  constructor(message: string, readonly status: number) {
    super(message);
  }
}

const asked = async (path: string, init: RequestInit = {}): Promise<Response> => {
  const answer = await fetch(path, { ...init, headers: { "content-type": "application/json", ...init.headers } }).catch((error: unknown) => {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Refused("", 0);
  });
  if (!answer.ok) {
    const told = (await answer.json().catch(() => ({}))) as { error?: { message?: string } };
    throw new Refused(told.error?.message ?? String(answer.status), answer.status);
  }
  return answer;
};

const json = async <T>(path: string, method = "GET", body?: unknown): Promise<T> =>
  (await asked(path, { method, ...(body === undefined ? {} : { body: JSON.stringify(body) }) })).json() as Promise<T>;

export const api = {
  who: () => json<Who>("/console/api/session"),
  signIn: (email: string, password: string) => json<{ account: Account }>("/console/api/session", "POST", { email, password }),
  setUp: (email: string, name: string, password: string) => json<{ account: Account }>("/console/api/setup", "POST", { email, name, password }),
  signOut: () => json<unknown>("/console/api/session", "DELETE"),
  models: async () => (await json<{ data: Model[] }>("/v1/models")).data,
  usage: async (since: number) => (await json<{ data: Usage[] }>(`/admin/v1/usage?by=model&since=${since}`)).data,
  apps: async () => (await json<{ data: App[] }>("/admin/v1/apps")).data,
  importApp: (file: string) => json<Imported>("/admin/v1/apps", "POST", { file }),
  publish: (id: string) => json<App>(`/admin/v1/apps/${encodeURIComponent(id)}/publish`, "POST", {}),
  setPage: (id: string, isOn: boolean) => json<App>(`/admin/v1/apps/${encodeURIComponent(id)}`, "PATCH", { page: { is_on: isOn } }),
  resting: async () => (await json<{ data: Record<string, unknown> }>("/admin/v1/resting")).data,
};

export interface Said { role: "user" | "assistant"; content: string }
export interface Piece { text?: string; thought?: string; usage?: { total_tokens: number } }

export async function* chat(model: string, messages: Said[], signal: AbortSignal): AsyncGenerator<Piece> {
  const body = JSON.stringify({ model, messages, stream: true, stream_options: { include_usage: true } });
  const answer = await asked("/v1/chat/completions", { method: "POST", body, signal });
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const one = JSON.parse(line.slice(6)) as {
        error?: { message: string }; usage?: { total_tokens: number };
        choices?: { delta?: { content?: string | null; reasoning_content?: string | null } }[];
      };
      if (one.error) throw new Refused(one.error.message, 500);
      const delta = one.choices?.[0]?.delta;
      const piece: Piece = {};
      if (delta?.content) piece.text = delta.content;
      if (delta?.reasoning_content) piece.thought = delta.reasoning_content;
      if (one.usage) piece.usage = one.usage;
      yield piece;
    }
  }
}
