import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { type FormEvent, type KeyboardEvent, useRef, useState } from "react";
import {
  api,
  type ChatMessage,
  type ChatUsage,
  type Content,
  chat,
  type Piece,
  type Shape,
  type ToolCall,
} from "../../api";
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

const MAX_MODELS = 4;
const MAX_PICTURES = 4;
const EMPTY_SETUP: Setup = { models: ["default"], draft: "", system: "", parameters: {}, tools: "", schema: "" };

// Undefined for empty text, null for text that is not JSON.
const parseOptional = (text: string): unknown => {
  try {
    return text.trim() ? JSON.parse(text) : undefined;
  } catch {
    return null;
  }
};

const textOf = (content: Content) =>
  typeof content === "string" ? content : content.map((part) => (part.type === "text" ? part.text : "")).join("");

const asMessage = ({ role, content }: Turn): ChatMessage => ({ role, content });

// A request with the parameters that the model has; what another model took is left out.
const requestBody = (
  { system, parameters, tools, schema }: Setup,
  model: string,
  messages: ChatMessage[],
  models: Shape<"CatalogueModel">[] | undefined,
) => {
  const rules = models?.find((offered) => offered.id === model)?.rules.map((rule) => rule.name);
  const allowed = Object.entries(parameters).filter(([name]) => !rules || rules.includes(name));
  const toolList = parseOptional(tools);
  const answerSchema = parseOptional(schema);
  return {
    model,
    ...Object.fromEntries(allowed),
    messages: [...(system.trim() ? [{ role: "system", content: system }] : []), ...messages],
    ...(toolList ? { tools: toolList } : {}),
    ...(answerSchema
      ? { response_format: { type: "json_schema", json_schema: { name: "answer", schema: answerSchema } } }
      : {}),
  };
};

// The conversations with the models, side by side, and how many answers are on their way.
const usePanes = () => {
  const errorText = useWrong();
  const [panes, setPanes] = useState<Turn[][]>([[]]);
  const [busyCount, setBusyCount] = useState(0);
  const putTurns = (pane: number, change: (turns: Turn[]) => Turn[]) =>
    setPanes((all) => all.map((turns, index) => (index === pane ? change(turns) : turns)));
  // Sends the history and adds the answer to it, piece by piece.
  const ask = async (
    pane: number,
    history: Turn[],
    body: (messages: ChatMessage[]) => Record<string, unknown>,
    signal: AbortSignal,
  ) => {
    const put = (change: (turn: Turn) => Partial<Turn>) =>
      putTurns(pane, (turns) =>
        turns.map((turn, index) => (index === history.length ? { ...turn, ...change(turn) } : turn)),
      );
    putTurns(pane, () => [...history, { role: "assistant", content: "" }]);
    setBusyCount((count) => count + 1);
    const startedAt = performance.now();
    let first: number | undefined;
    try {
      const messages = history
        .filter((turn) => textOf(turn.content) || typeof turn.content !== "string")
        .map(asMessage);
      for await (const piece of chat(body(messages), signal, (call) => put(() => ({ call })))) {
        if (first === undefined && (piece.text ?? piece.thought ?? piece.tools)) first = performance.now() - startedAt;
        put((turn) => withPiece(turn, piece));
      }
    } catch (error) {
      if ((error as Error).name !== "AbortError") put(() => ({ trouble: errorText(error) }));
    } finally {
      put(() => ({ all: performance.now() - startedAt, ...(first === undefined ? {} : { first }) }));
      setBusyCount((count) => count - 1);
    }
  };
  return { panes, setPanes, isBusy: busyCount > 0, ask };
};

const withPiece = (turn: Turn, piece: Piece): Partial<Turn> => ({
  content: textOf(turn.content) + (piece.text ?? ""),
  ...(piece.thought ? { thought: (turn.thought ?? "") + piece.thought } : {}),
  ...(piece.tools ? { tools: piece.tools } : {}),
  ...(piece.usage ? { usage: piece.usage } : {}),
});

const useChat = () => {
  const { t } = useChosen();
  const [setup, setSetup] = useKept<Setup>("playground.chat", EMPTY_SETUP);
  const [pictures, setPictures] = useState<string[]>([]);
  const { panes, setPanes, isBusy, ask } = usePanes();
  const activeRequest = useRef<AbortController | null>(null);
  const models = useModels("llm");
  const change = (more: Partial<Setup>) => setSetup((before) => ({ ...before, ...more }));
  const send = () => {
    if (isBusy) return activeRequest.current?.abort();
    const text = setup.draft.trim();
    if (!text || parseOptional(setup.tools) === null || parseOptional(setup.schema) === null) return;
    const images = pictures.map((url) => ({ type: "image_url" as const, image_url: { url } }));
    const content: Content = images.length ? [{ type: "text", text }, ...images] : text;
    const controller = new AbortController();
    activeRequest.current = controller;
    change({ draft: "" });
    setPictures([]);
    for (const [pane, model] of setup.models.entries()) {
      const history: Turn[] = [...(panes[pane] ?? []), { role: "user", content }];
      void ask(pane, history, (messages) => requestBody(setup, model, messages, models.data), controller.signal);
    }
  };
  const addPictures = (files: FileList | null) => {
    for (const file of files ?? []) {
      const reader = new FileReader();
      reader.onload = () => setPictures((all) => [...all, String(reader.result)].slice(0, MAX_PICTURES));
      reader.readAsDataURL(file);
    }
  };
  const turns = (panes[0] ?? []).filter((turn) => textOf(turn.content)).map(asMessage);
  const draft: ChatMessage = { role: "user", content: setup.draft || t.hello };
  const messages = panes[0]?.length ? turns : [draft];
  const sample = requestBody(setup, setup.models[0] ?? "default", messages, models.data);
  return { setup, change, pictures, addPictures, panes, setPanes, isBusy, models, send, sample };
};
type ChatControl = ReturnType<typeof useChat>;

export const Chat = () => {
  const { t } = useChosen();
  const control = useChat();
  const { setup, panes, models } = control;
  return (
    <>
      <Models control={control} />
      <Parameters control={control} />
      {!panes.some((pane) => pane.length) && <Empty title={t.emptyChat} />}
      <div className="panes">
        {setup.models.map((model, pane) => (
          <div
            key={pane}
            role="log"
            aria-live="polite"
            aria-label={setup.models.length > 1 ? model : t.answer}
            className="turns"
          >
            {(panes[pane] ?? []).map((turn, index) => (
              <Shown key={index} turn={turn} model={model} models={models.data ?? []} />
            ))}
          </div>
        ))}
      </div>
      <Composer control={control} />
      <Samples path="/v1/chat/completions" body={control.sample} />
    </>
  );
};

const Models = ({ control }: { control: ChatControl }) => {
  const { t } = useChosen();
  const { setup, change, panes, setPanes, isBusy } = control;
  const isComparison = setup.models.length > 1;
  const remove = (pane: number) => {
    change({ models: setup.models.filter((_, index) => index !== pane) });
    setPanes((all) => all.filter((_, index) => index !== pane));
  };
  const add = () => {
    change({ models: [...setup.models, "default"] });
    setPanes((all) => [...all, []]);
  };
  return (
    <div className="row">
      {setup.models.map((model, pane) => (
        <div className="row tight" key={pane}>
          <ModelPick
            type="llm"
            value={model}
            label={isComparison ? filled(t.modelNumber, { number: pane + 1 }) : t.model}
            onChange={(next) =>
              change({ models: setup.models.map((existing, index) => (index === pane ? next : existing)) })
            }
          />
          {isComparison && (
            <button
              type="button"
              className="icon"
              aria-label={filled(t.removeModel, { name: model })}
              disabled={isBusy}
              onClick={() => remove(pane)}
            >
              ×
            </button>
          )}
        </div>
      ))}
      {setup.models.length < MAX_MODELS && (
        <button type="button" disabled={isBusy} onClick={add}>
          {t.compareWith}
        </button>
      )}
      <button
        type="button"
        onClick={() => setPanes(setup.models.map(() => []))}
        disabled={isBusy || !panes.some((pane) => pane.length)}
      >
        {t.clear}
      </button>
    </div>
  );
};

const JsonArea = ({
  label,
  help,
  value,
  onChange,
}: {
  label: string;
  help: string;
  value: string;
  onChange: (value: string) => void;
}) => {
  const { t } = useChosen();
  const isInvalid = parseOptional(value) === null;
  return (
    <Field label={label} help={isInvalid ? <span className="wrong">{t.notJson}</span> : help}>
      <textarea
        className="mono"
        rows={4}
        value={value}
        spellCheck={false}
        onChange={(event) => onChange(event.target.value)}
      />
    </Field>
  );
};

const Parameters = ({ control }: { control: ChatControl }) => {
  const { t } = useChosen();
  const { setup, change } = control;
  return (
    <details className="card">
      <summary>{t.parameters}</summary>
      <Field label={t.systemPrompt}>
        <textarea rows={2} value={setup.system} onChange={(event) => change({ system: event.target.value })} />
      </Field>
      <ModelRules models={setup.models} values={setup.parameters} onChange={(parameters) => change({ parameters })} />
      <div className="two">
        <JsonArea label={t.tools} help={t.toolsHelp} value={setup.tools} onChange={(tools) => change({ tools })} />
        <JsonArea
          label={t.answerSchema}
          help={t.answerSchemaHelp}
          value={setup.schema}
          onChange={(schema) => change({ schema })}
        />
      </div>
    </details>
  );
};

const Composer = ({ control }: { control: ChatControl }) => {
  const { t } = useChosen();
  const { setup, change, pictures, addPictures, isBusy, send } = control;
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    send();
  };
  const onSubmit = (event: FormEvent) => {
    event.preventDefault();
    send();
  };
  return (
    <form className="composer" onSubmit={onSubmit}>
      <label className="hidden" htmlFor="ask">
        {t.message}
      </label>
      <textarea
        id="ask"
        rows={2}
        value={setup.draft}
        placeholder={t.ask}
        onChange={(event) => change({ draft: event.target.value })}
        onKeyDown={onKeyDown}
        onPaste={(event) => {
          if (event.clipboardData.files.length) addPictures(event.clipboardData.files);
        }}
      />
      <label className="button">
        {pictures.length ? filled(t.pictures, { count: pictures.length }) : t.picture}
        <input
          className="hidden"
          type="file"
          accept="image/*"
          multiple
          onChange={(event) => addPictures(event.target.files)}
        />
      </label>
      <button className="primary" type="submit">
        {isBusy ? t.stop : t.send}
      </button>
    </form>
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
  const known = models.find((offered) => offered.id === model);
  return (
    <article className={`turn ${turn.role}`} aria-label={isUser ? t.you : t.answer}>
      {turn.thought && (
        <details>
          <summary>{t.thinking}</summary>
          <div className="thought">{turn.thought}</div>
        </details>
      )}
      {isUser ? <p>{textOf(turn.content)}</p> : <Markdown text={textOf(turn.content)} />}
      {typeof turn.content !== "string" &&
        turn.content.map((part, at) =>
          part.type === "image_url" ? (
            <img key={at} src={part.image_url.url} alt={t.picture} className="thumb" />
          ) : null,
        )}
      {turn.tools && turn.tools.length > 0 && (
        <details open>
          <summary>{t.toolCalls}</summary>
          <Json value={turn.tools.map((tool) => `${tool.name}(${tool.arguments})`).join("\n")} />
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
