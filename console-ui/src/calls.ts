// How any page of ours asks its server, and how it reads an answer that comes in pieces.
export class Refused extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code = "",
  ) {
    super(message);
  }
}

export const isAbort = (error: unknown) => error instanceof DOMException && error.name === "AbortError";

// A server that cannot be reached is a refusal without words.
const unlessAborted = (error: unknown): never => {
  throw isAbort(error) ? error : new Refused("", 0);
};
export const reached = (request: Request): Promise<Response> => fetch(request).catch(unlessAborted);

export const refusalOf = async (answer: Response): Promise<Refused> => {
  const body = (await answer.json().catch(() => ({}))) as {
    error?: { message?: string; code?: string };
    message?: string;
  };
  return new Refused(
    body.error?.message ?? body.message ?? `${answer.status} ${answer.statusText}`,
    answer.status,
    body.error?.code,
  );
};

// A stream that broke says so in an object; events of a run have errors of their own.
export async function* eventsIn<T extends object>(answer: Response): AsyncGenerator<T> {
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(unlessAborted);
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6)) as T & { error?: { message: string } | string };
      if (event.error && typeof event.error === "object") throw new Refused(event.error.message, 500);
      yield event as Awaited<T>;
    }
  }
}
