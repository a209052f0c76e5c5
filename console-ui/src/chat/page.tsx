// The page on which people use one published app.
import { lazy, Suspense, useEffect, useLayoutEffect, useRef, useState, useSyncExternalStore } from "react";
import { Inputs, isComplete } from "../components/inputs";
import { LanguagePick } from "../components/languages";
import type { Shape, Site } from "./api";
import { Composer } from "./composer";
import { Icon } from "./icons";
import { useChat } from "./messages";
import { isChat, type State, type Talk } from "./talk";
import { ShownTurn } from "./turns";

type Conversation = Shape<"ConversationShown">;
export type Change = { what: "rename" | "erase"; of: Conversation };
const ChangeDialog = lazy(() => import("./dialogs"));

const isNarrow = () => matchMedia("(max-width: 720px)").matches;

export const ChatPage = ({ talk }: { talk: Talk }) => {
  const { t } = useChat();
  const state = useSyncExternalStore(talk.subscribe, talk.snapshot);
  // Undefined until somebody opened or closed it.
  const [isOpened, setOpened] = useState<boolean>();
  const [change, setChange] = useState<Change | null>(null);
  const ask = useRef<HTMLTextAreaElement>(null);
  const menu = useRef<HTMLButtonElement>(null);
  const inputs = useRef<HTMLFormElement>(null);
  const isTalk = isChat(state);
  const isOpen = isTalk && (isOpened ?? (state.hasPast && !isNarrow()));
  const toAsk = () => {
    if (isNarrow()) setOpened(false);
    ask.current?.focus();
  };
  const title = state.about?.site.title;
  useEffect(() => {
    if (title) document.title = title;
  }, [title]);
  useEffect(() => {
    if (isTalk) ask.current?.focus();
  }, [isTalk]);
  useEffect(() => {
    const close = (event: KeyboardEvent) => {
      if (event.key !== "Escape" || !isOpen || !isNarrow()) return;
      setOpened(false);
      menu.current?.focus();
    };
    document.addEventListener("keydown", close);
    return () => document.removeEventListener("keydown", close);
  }, [isOpen]);
  return (
    <div className="chat">
      <a className="skip" href="#ask">
        {t.skip}
      </a>
      <header>
        {isTalk && (
          <button
            ref={menu}
            type="button"
            className="icon"
            aria-label={t.conversations}
            aria-expanded={isOpen}
            aria-controls="conversations"
            onClick={() => setOpened(!isOpen)}
          >
            <Icon name="menu" />
          </button>
        )}
        {state.about && <Emblem site={state.about.site} />}
        <h1>{title}</h1>
        {isTalk && (
          <button
            type="button"
            onClick={() => {
              talk.fresh();
              toAsk();
            }}
          >
            {t.fresh}
          </button>
        )}
        <LanguagePick />
      </header>
      <div className="columns">
        <nav id="conversations" aria-label={t.conversations} hidden={!isOpen}>
          <h2>{t.conversations}</h2>
          <Conversations
            state={state}
            onOpen={(conversation) => void talk.open(conversation).then(toAsk)}
            onChange={(what, of) => setChange({ what, of })}
          />
        </nav>
        <main>
          <Scrolled turns={state.turns}>
            {state.about?.site.description && <p className="soft pre">{state.about.site.description}</p>}
            <InputForm talk={talk} state={state} form={inputs} />
            <h2 className="hidden" id="talk">
              {t.conversation}
            </h2>
            <div role="log" aria-labelledby="talk" aria-live="polite" aria-relevant="additions" className="turns">
              {state.turns.map((turn) => (
                <ShownTurn key={turn.id} turn={turn} talk={talk} about={state.about} onAsk={toAsk} />
              ))}
            </div>
          </Scrolled>
          <div className="told" role="status">
            {state.status(t)}
          </div>
          {isTalk && (
            <Composer
              ref={ask}
              talk={talk}
              state={state}
              isReady={() => !state.isAsking || isComplete(inputs.current, t)}
            />
          )}
        </main>
      </div>
      {change && (
        <Suspense fallback={null}>
          <ChangeDialog change={change} talk={talk} onClose={() => setChange(null)} />
        </Suspense>
      )}
    </div>
  );
};

const Emblem = ({ site }: { site: Site }) =>
  site.icon_type === "emoji" && [...(site.icon ?? "")].length <= 3 ? (
    <span className="emblem" aria-hidden="true">
      {site.icon}
    </span>
  ) : null;

const Conversations = ({
  state,
  onOpen,
  onChange,
}: {
  state: State;
  onOpen: (id: string) => void;
  onChange: (what: Change["what"], of: Conversation) => void;
}) => {
  const { t } = useChat();
  return (
    <ul className="plain">
      {state.conversations.map((conversation) => (
        <li key={conversation.id} aria-current={conversation.id === state.conversation}>
          <button type="button" className="to" onClick={() => onOpen(conversation.id)}>
            {conversation.name}
          </button>
          <button
            type="button"
            className="icon"
            aria-label={t.rename}
            title={t.rename}
            onClick={() => onChange("rename", conversation)}
          >
            ✎
          </button>
          <button
            type="button"
            className="icon"
            aria-label={t.erase}
            title={t.erase}
            onClick={() => onChange("erase", conversation)}
          >
            ✕
          </button>
        </li>
      ))}
    </ul>
  );
};

// What an app asks before the first message, or all that it asks where it is no chat.
const InputForm = ({
  talk,
  state,
  form,
}: {
  talk: Talk;
  state: State;
  form: React.RefObject<HTMLFormElement | null>;
}) => {
  const { t } = useChat();
  if (!state.about) return null;
  const isTalk = isChat(state);
  if (isTalk && !state.isAsking) return null;
  return (
    <form
      ref={form}
      className="form card"
      noValidate
      onSubmit={(event) => {
        event.preventDefault();
        if (isTalk) return;
        if (state.isRunning) void talk.stop();
        else if (isComplete(form.current, t)) void talk.run();
      }}
    >
      <Inputs form={state.about.form} values={state.values} upload={talk.upload} onChange={talk.setValues} />
      {!isTalk && (
        <div className="row tight">
          <button type="submit" className="primary">
            {state.isRunning ? t.stop : t.run}
          </button>
        </div>
      )}
    </form>
  );
};

// Follows what comes, for as long as somebody reads at its end; what they ask brings them there.
const Scrolled = ({ turns, children }: { turns: State["turns"]; children: React.ReactNode }) => {
  const container = useRef<HTMLDivElement>(null);
  const isAtEnd = useRef(true);
  const count = useRef(0);
  useLayoutEffect(() => {
    const isNew = turns.length !== count.current;
    count.current = turns.length;
    if (container.current && (isNew || isAtEnd.current)) container.current.scrollTop = container.current.scrollHeight;
  }, [turns]);
  return (
    <div
      ref={container}
      className="reading"
      onScroll={({ currentTarget: element }) => {
        isAtEnd.current = element.scrollHeight - element.scrollTop - element.clientHeight < 120;
      }}
    >
      {children}
    </div>
  );
};
