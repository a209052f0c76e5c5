// What was asked and what was answered, with all that came beside it.
import { memo, type ReactNode, useEffect, useRef, useState } from "react";
import { Copied } from "../components/base";
import { type Form, Inputs, isComplete, ready } from "../components/inputs";
import { Markdown, urlOf } from "../markdown";
import { api, type Rating, type WaitingForm } from "./api";
import { useChat } from "./messages";
import { type Answer, isOn, type Question, type State, type Talk, type Turn } from "./talk";

interface Shown<T> {
  turn: T;
  talk: Talk;
  about: State["about"];
  // What is done once one of the suggested questions was asked.
  onAsk: () => void;
}

// Only the turn that changed is drawn again.
export const ShownTurn = memo(
  ({ turn, ...rest }: Shown<Turn>) =>
    turn.kind === "question" ? <QuestionTurn turn={turn} /> : <AnswerTurn turn={turn} {...rest} />,
  (before, after) => before.turn === after.turn && before.about === after.about,
);

const QuestionTurn = ({ turn }: { turn: Question }) => {
  const { t } = useChat();
  return (
    <div className="turn user">
      <p>
        <span className="hidden">{t.you}: </span>
        {turn.text}
      </p>
      {turn.files.map((name, index) => (
        <p key={index}>📎 {name}</p>
      ))}
    </div>
  );
};

const AnswerTurn = ({ turn, talk, about, onAsk }: Shown<Answer>) => {
  const { t } = useChat();
  const isNone = turn.isWhole && !turn.text && !turn.files.length;
  return (
    <article className={`turn assistant${turn.isBusy && !turn.form ? " busy" : ""}`} aria-label={t.answer}>
      <Beside title={t.thinking}>{turn.thought}</Beside>
      <Beside title={t.steps}>
        {turn.steps.length > 0 && turn.steps.map(({ id, text }) => <p key={id}>{text}</p>)}
      </Beside>
      <Markdown text={isNone ? t.none : turn.text} />
      {turn.files.map((file, index) => (
        <AnswerFile key={index} {...file} />
      ))}
      <Sources of={turn} />
      {turn.form && <Waiting key={turn.form.form_token} form={turn.form} talk={talk} />}
      {turn.wrong && (
        <p className="wrong pre" role="alert">
          {t.failed}: {turn.wrong(t)}
        </p>
      )}
      {turn.isWhole && <Tools turn={turn} talk={talk} about={about} />}
      {turn.questions.length > 0 && (
        <div className="row tight">
          {turn.questions.map((question) => (
            <button
              key={question}
              type="button"
              onClick={() => {
                void talk.send(question);
                onAsk();
              }}
            >
              {question}
            </button>
          ))}
        </div>
      )}
    </article>
  );
};

const Beside = ({ title, children }: { title: string; children: ReactNode }) =>
  children ? (
    <details>
      <summary>{title}</summary>
      <div className="thought">{children}</div>
    </details>
  ) : null;

const Sources = ({ of }: { of: Answer }) => {
  const { t } = useChat();
  if (!of.sources.length) return null;
  return (
    <ol className="soft small" aria-label={t.sources}>
      {of.sources.map((source, index) => (
        <li key={index} title={(source.content ?? "").slice(0, 400)}>
          {source.document_name ?? source.title ?? ""}
        </li>
      ))}
    </ol>
  );
};

// Stored pictures of this server are shown; whatever else an address names is asked for by whoever follows it.
const AnswerFile = ({ url, type }: { url: string; type: string }) => {
  const [picture, setPicture] = useState("");
  const target = urlOf(url);
  const isOurs = target?.origin === location.origin && target.pathname.startsWith("/files/");
  const isPicture = type === "image" && isOurs;
  const href = target?.href ?? "";
  useEffect(() => {
    if (!isPicture) return;
    let objectUrl = "";
    let isGone = false;
    void api.stored(href).then(
      (file) => {
        if (isGone || !/^image\/(?!svg)/.test(file.type)) return;
        objectUrl = URL.createObjectURL(file);
        setPicture(objectUrl);
      },
      () => {}, // it stays a link
    );
    return () => {
      isGone = true;
      URL.revokeObjectURL(objectUrl);
    };
  }, [href, isPicture]);
  if (!target || !["http:", "https:"].includes(target.protocol)) return null;
  if (picture) return <img className="picture" src={picture} alt="" />;
  return (
    <p>
      <a href={href} target="_blank" rel="noopener noreferrer">
        📎 {target.pathname.split("/").pop()}
      </a>
    </p>
  );
};

const Tools = ({ turn, talk, about }: { turn: Answer; talk: Talk; about: State["about"] }) => {
  const { t } = useChat();
  const { message } = turn;
  const rate = (rating: Exclude<Rating, null>, label: string) => (
    <button
      type="button"
      aria-pressed={turn.rating === rating}
      onClick={() => void talk.rate(turn, turn.rating === rating ? null : rating)}
    >
      {label}
    </button>
  );
  return (
    <div className="row tight tools">
      <Copied text={turn.text} />
      {message && rate("like", t.good)}
      {message && rate("dislike", t.bad)}
      {message && isOn(about?.parameters.text_to_speech) && (
        <button type="button" onClick={() => void talk.listen(message)}>
          {t.listen}
        </button>
      )}
      {message && about?.mode === "completion" && isOn(about.parameters.more_like_this) && (
        <button type="button" onClick={() => talk.moreLike(message)}>
          {t.more}
        </button>
      )}
    </div>
  );
};

const asForm = ({ inputs, resolved_default_values: defaults }: WaitingForm): Form[] =>
  (inputs ?? []).map(({ type, output_variable_name: variable }) => ({
    type,
    variable,
    label: variable,
    required: false,
    options: [],
    default: defaults?.[variable],
  }));

// Somebody has to fill this in before the run goes on.
const Waiting = ({ form, talk }: { form: WaitingForm; talk: Talk }) => {
  const { t } = useChat();
  const formRef = useRef<HTMLFormElement>(null);
  const [values, setValues] = useState<Record<string, unknown>>({});
  const controls = asForm(form);
  useEffect(() => {
    formRef.current?.querySelector<HTMLElement>("input, textarea, select, button")?.focus();
  }, []);
  return (
    <form ref={formRef} className="form card" onSubmit={(event) => event.preventDefault()}>
      <Markdown text={(form.form_content ?? "").replace(/\{\{#\$output\.[^}]*#\}\}/g, "")} />
      <Inputs form={controls} values={values} upload={talk.upload} onChange={setValues} />
      <div className="row tight">
        {(form.actions ?? []).map(({ id, title, button_style }) => (
          <button
            key={id}
            type="button"
            className={button_style === "primary" ? "primary" : ""}
            onClick={() => {
              if (!isComplete(formRef.current, t)) return;
              const empty = Object.fromEntries(controls.map(({ variable }) => [variable, ""]));
              talk.fill({ values: { ...empty, ...ready(values, controls) }, action: id });
            }}
          >
            {title || id}
          </button>
        ))}
      </div>
    </form>
  );
};
