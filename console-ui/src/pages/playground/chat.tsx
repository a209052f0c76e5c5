import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { type KeyboardEvent, useRef, useState } from "react";
import { api, type ChatUsage, type Content, chat, type Said, type Shape, type ToolCall } from "../../api";
import { Empty, Field, Json, useWrong } from "../../components/base";
import { ModelPick, ModelRules, useModels } from "../../components/models";
import { Markdown } from "../../markdown";
import { filled } from "../../messages";
import { useChosen, useKept } from "../../settings";
import { Samples } from "./samples";

interface Turn {
  role: "user" | "assistant";
  content: Content;
  thought?: string;
  tools?: ToolCall[];
  usage?: ChatUsage;
  first?: number;
  all?: number;
  call?: string;
  trouble?: string;
}
interface Setup {
  models: string[];
  draft: string;
  system: string;
  parameters: Record<string, unknown>;
  tools: string;
  schema: string;
}

const MOST = 4;

const parsed = (text: string): unknown => {
  try {
    return text.trim() ? JSON.parse(text) : undefined;
  } catch {
    return null;
  }
};

const words = (content: Content) =>
  typeof content === "string" ? content : content.map((one) => (one.type === "text" ? one.text : "")).join("");

export const Chat = () => {
  const { t } = useChosen();
  const said = useWrong();
  const [setup, setSetup] = useKept<Setup>("playground.chat", {
    models: ["default"],
    draft: "",
    system: "",
    parameters: {},
    tools: "",
    schema: "",
  });
  const [panes, setPanes] = useState<Turn[][]>([[]]);
  const [pictures, setPictures] = useState<string[]>([]);
  const [busy, setBusy] = useState(0);
  const stopping = useRef<AbortController | null>(null);
  const models = useModels("llm");
  const change = (more: Partial<Setup>) => setSetup((now) => ({ ...now, ...more }));
  const tools = parsed(setup.tools);
  const schema = parsed(setup.schema);

  const body = (model: string, messages: Said[]) => {
    const rules = models.data?.find((one) => one.id === model)?.rules.map((one) => one.name);
    const parameters = Object.fromEntries(
      Object.entries(setup.parameters).filter(([name]) => !rules || rules.includes(name)),
    );
    return {
      model,
      ...parameters,
      messages: [...(setup.system.trim() ? [{ role: "system", content: setup.system }] : []), ...messages],
      ...(tools ? { tools } : {}),
      ...(schema ? { response_format: { type: "json_schema", json_schema: { name: "answer", schema } } } : {}),
    };
  };

  const ask = async (pane: number, model: string, history: Turn[], signal: AbortSignal) => {
    const at = history.length;
    const put = (more: (one: Turn) => Partial<Turn>) =>
      setPanes((all) =>
        all.map((turns, place) =>
          place === pane ? turns.map((one, number) => (number === at ? { ...one, ...more(one) } : one)) : turns,
        ),
      );
    setPanes((all) =>
      all.map((turns, place) => (place === pane ? [...history, { role: "assistant", content: "" }] : turns)),
    );
    setBusy((count) => count + 1);
    const began = performance.now();
    let first: number | undefined;
    try {
      const messages = history
        .filter((one) => words(one.content) || typeof one.content !== "string")
        .map(({ role, content }) => ({ role, content }));
      for await (const piece of chat(body(model, messages), signal, (call) => put(() => ({ call })))) {
        if (first === undefined && (piece.text ?? piece.thought ?? piece.tools)) first = performance.now() - began;
        put((one) => ({
          content: words(one.content) + (piece.text ?? ""),
          ...(piece.thought ? { thought: (one.thought ?? "") + piece.thought } : {}),
          ...(piece.tools ? { tools: piece.tools } : {}),
          ...(piece.usage ? { usage: piece.usage } : {}),
        }));
      }
    } catch (error) {
      if ((error as Error).name !== "AbortError") put(() => ({ trouble: said(error) }));
    } finally {
      put(() => ({ all: performance.now() - began, ...(first === undefined ? {} : { first }) }));
      setBusy((count) => count - 1);
    }
  };
  const send = () => {
    if (busy) return stopping.current?.abort();
    const text = setup.draft.trim();
    if (!text || tools === null || schema === null) return;
    const content: Content = pictures.length
      ? [{ type: "text", text }, ...pictures.map((url) => ({ type: "image_url" as const, image_url: { url } }))]
      : text;
    stopping.current = new AbortController();
    change({ draft: "" });
    setPictures([]);
    setup.models.forEach(
      (model, pane) =>
        void ask(pane, model, [...(panes[pane] ?? []), { role: "user", content }], stopping.current!.signal),
    );
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing) {
      event.preventDefault();
      send();
    }
  };
  const take = (files: FileList | null) =>
    [...(files ?? [])].forEach((file) => {
      const reader = new FileReader();
      reader.onload = () => setPictures((all) => [...all, String(reader.result)].slice(0, 4));
      reader.readAsDataURL(file);
    });
  const first = panes[0] ?? [];
  const sample = body(
    setup.models[0] ?? "default",
    first.length
      ? first.filter((one) => words(one.content)).map(({ role, content }) => ({ role, content }))
      : [{ role: "user", content: setup.draft || t.hello }],
  );
  return (
    <>
      <div className="row">
        {setup.models.map((model, pane) => (
          <div className="row tight" key={pane}>
            <ModelPick
              type="llm"
              value={model}
              label={setup.models.length > 1 ? filled(t.modelNumber, { number: pane + 1 }) : t.model}
              onChange={(next) => change({ models: setup.models.map((one, place) => (place === pane ? next : one)) })}
            />
            {setup.models.length > 1 && (
              <button
                type="button"
                className="icon"
                aria-label={filled(t.removeModel, { name: model })}
                disabled={busy > 0}
                onClick={() => {
                  change({ models: setup.models.filter((_, place) => place !== pane) });
                  setPanes((all) => all.filter((_, place) => place !== pane));
                }}
              >
                ×
              </button>
            )}
          </div>
        ))}
        {setup.models.length < MOST && (
          <button
            type="button"
            disabled={busy > 0}
            onClick={() => {
              change({ models: [...setup.models, "default"] });
              setPanes((all) => [...all, []]);
            }}
          >
            {t.compareWith}
          </button>
        )}
        <button
          type="button"
          onClick={() => setPanes(setup.models.map(() => []))}
          disabled={busy > 0 || !panes.some((one) => one.length)}
        >
          {t.clear}
        </button>
      </div>
      <details className="card">
        <summary>{t.parameters}</summary>
        <Field label={t.systemPrompt}>
          <textarea rows={2} value={setup.system} onChange={(event) => change({ system: event.target.value })} />
        </Field>
        <ModelRules models={setup.models} values={setup.parameters} onChange={(parameters) => change({ parameters })} />
        <div className="two">
          <Field label={t.tools} help={tools === null ? <span className="wrong">{t.notJson}</span> : t.toolsHelp}>
            <textarea
              className="mono"
              rows={4}
              value={setup.tools}
              spellCheck={false}
              onChange={(event) => change({ tools: event.target.value })}
            />
          </Field>
          <Field
            label={t.answerSchema}
            help={schema === null ? <span className="wrong">{t.notJson}</span> : t.answerSchemaHelp}
          >
            <textarea
              className="mono"
              rows={4}
              value={setup.schema}
              spellCheck={false}
              onChange={(event) => change({ schema: event.target.value })}
            />
          </Field>
        </div>
      </details>
      {!panes.some((one) => one.length) && <Empty title={t.emptyChat} />}
      <div className="panes">
        {setup.models.map((model, pane) => (
          <div
            key={pane}
            role="log"
            aria-live="polite"
            aria-label={setup.models.length > 1 ? model : t.answer}
            className="turns"
          >
            {(panes[pane] ?? []).map((one, at) => (
              <Shown key={at} turn={one} model={model} models={models.data ?? []} />
            ))}
          </div>
        ))}
      </div>
      <form
        className="composer"
        onSubmit={(event) => {
          event.preventDefault();
          send();
        }}
      >
        <label className="hidden" htmlFor="ask">
          {t.message}
        </label>
        <textarea
          id="ask"
          rows={2}
          value={setup.draft}
          placeholder={t.ask}
          onChange={(event) => change({ draft: event.target.value })}
          onKeyDown={onKey}
          onPaste={(event) => {
            if (event.clipboardData.files.length) take(event.clipboardData.files);
          }}
        />
        <label className="button">
          {pictures.length ? filled(t.pictures, { count: pictures.length }) : t.picture}
          <input
            className="hidden"
            type="file"
            accept="image/*"
            multiple
            onChange={(event) => take(event.target.files)}
          />
        </label>
        <button className="primary" type="submit">
          {busy ? t.stop : t.send}
        </button>
      </form>
      <Samples path="/v1/chat/completions" body={sample} />
    </>
  );
};

const Shown = ({ turn, model, models }: { turn: Turn; model: string; models: Shape<"CatalogueModel">[] }) => {
  const { t, span, number, money } = useChosen();
  const isUser = turn.role === "user";
  const cost = useQuery({
    queryKey: ["call", turn.call],
    queryFn: () => api.call(turn.call!),
    enabled: !isUser && !!turn.call && turn.all !== undefined,
    staleTime: Infinity,
    retry: 2,
  });
  const price = cost.data?.attempts?.at(-1);
  const known = models.find((one) => one.id === model);
  return (
    <article className={`turn ${turn.role}`} aria-label={isUser ? t.you : t.answer}>
      {turn.thought && (
        <details>
          <summary>{t.thinking}</summary>
          <div className="thought">{turn.thought}</div>
        </details>
      )}
      {isUser ? <p>{words(turn.content)}</p> : <Markdown text={words(turn.content)} />}
      {typeof turn.content !== "string" &&
        turn.content.map((one, at) =>
          one.type === "image_url" ? <img key={at} src={one.image_url.url} alt={t.picture} className="thumb" /> : null,
        )}
      {turn.tools && turn.tools.length > 0 && (
        <details open>
          <summary>{t.toolCalls}</summary>
          <Json value={turn.tools.map((one) => `${one.name}(${one.arguments})`).join("\n")} />
        </details>
      )}
      {turn.trouble && (
        <p className="wrong" role="alert">
          {t.wrong}: {turn.trouble}
        </p>
      )}
      {!isUser && turn.all !== undefined && (
        <p className="soft small">
          {turn.first !== undefined && filled(t.firstWord, { time: span(turn.first / 1000) })}{" "}
          {filled(t.allIn, { time: span(turn.all / 1000) })}
          {turn.usage &&
            ` ${filled(t.tokensInOut, { in: number(turn.usage.prompt_tokens), out: number(turn.usage.completion_tokens) })}`}
          {price && ` · ${money(price.cost, price.currency)}`}
          {!price && known?.input_price === "0" && ` · ${money(0, known.currency)}`}
          {turn.call && (
            <>
              {" "}
              ·{" "}
              <Link to="/requests/$id" params={{ id: turn.call }}>
                {t.why}
              </Link>
            </>
          )}
        </p>
      )}
    </article>
  );
};
