// Where one writes, speaks, and adds files.
import { type RefObject, useLayoutEffect, useRef, useState } from "react";
import { useKept } from "../settings";
import { token } from "./api";
import { Icon } from "./icons";
import { useChat } from "./messages";
import { type Recording, record } from "./speech";
import { isOn, type State, type Talk } from "./talk";

export const Composer = ({
  ref,
  talk,
  state,
  isReady,
}: {
  ref: RefObject<HTMLTextAreaElement | null>;
  talk: Talk;
  state: State;
  // Whether all that has to be filled in before is; says what is not.
  isReady: () => boolean;
}) => {
  const { t } = useChat();
  const [draft, setDraft] = useKept(`draft.${token}`, "");
  const chosen = useRef<HTMLInputElement>(null);
  const { file_upload, speech_to_text } = state.about!.parameters;
  const takesFiles = isOn(file_upload) || isOn(file_upload?.image as Record<string, unknown> | undefined);
  const hears = isOn(speech_to_text) && !!navigator.mediaDevices;

  // biome-ignore lint/correctness/useExhaustiveDependencies: it is as high as what is written in it
  useLayoutEffect(() => {
    const element = ref.current;
    if (!element) return;
    element.style.height = "auto";
    element.style.height = `${element.scrollHeight + 2}px`;
  }, [draft]);

  const send = async () => {
    const query = draft.trim();
    if (!query || !isReady()) return;
    setDraft("");
    ref.current?.focus();
    // What could not be sent is there again, unless something else was written meanwhile.
    if (!(await talk.send(query))) setDraft((current) => current || query);
  };
  return (
    <form
      className="composer"
      onSubmit={(event) => {
        event.preventDefault();
        void (state.isRunning ? talk.stop() : send());
      }}
    >
      {state.files.length > 0 && (
        <ul className="files">
          {state.files.map((file) => (
            <li key={file.upload_file_id}>
              {file.name}
              <button
                type="button"
                className="icon"
                aria-label={`${t.remove}: ${file.name}`}
                onClick={() => talk.detach(file)}
              >
                ✕
              </button>
            </li>
          ))}
        </ul>
      )}
      {takesFiles && (
        <>
          <button type="button" className="icon" aria-label={t.attach} onClick={() => chosen.current?.click()}>
            <Icon name="attach" />
          </button>
          <input
            ref={chosen}
            type="file"
            multiple
            hidden
            onChange={({ target }) => {
              void talk.attach([...(target.files ?? [])]);
              target.value = "";
            }}
          />
        </>
      )}
      <label className="hidden" htmlFor="ask">
        {t.message}
      </label>
      <textarea
        id="ask"
        ref={ref}
        rows={1}
        maxLength={20_000}
        value={draft}
        placeholder={t.ask}
        onChange={(event) => setDraft(event.target.value)}
        onPaste={(event) => {
          if (takesFiles && event.clipboardData.files.length) void talk.attach([...event.clipboardData.files]);
        }}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
          event.preventDefault();
          event.currentTarget.form?.requestSubmit();
        }}
      />
      {hears && (
        <Microphone
          talk={talk}
          onHeard={(text) => {
            setDraft((before) => [before, text].filter(Boolean).join(" "));
            ref.current?.focus();
          }}
        />
      )}
      <button
        type="submit"
        className="icon primary"
        aria-label={state.isRunning ? t.stop : t.send}
        title={state.isRunning ? t.stop : t.send}
      >
        <Icon name={state.isRunning ? "stop" : "send"} />
      </button>
    </form>
  );
};

const Microphone = ({ talk, onHeard }: { talk: Talk; onHeard: (text: string) => void }) => {
  const { t } = useChat();
  const [recording, setRecording] = useState<Recording | null>(null);
  const begin = async () => {
    try {
      setRecording(await record());
      talk.say((words) => words.speaking);
    } catch (error) {
      talk.fails(error);
    }
  };
  const end = async (running: Recording) => {
    setRecording(null);
    const text = await talk.heard(running.stop());
    if (text) onHeard(text);
  };
  return (
    <button
      type="button"
      className="icon"
      aria-label={t.speak}
      aria-pressed={recording !== null}
      onClick={() => void (recording ? end(recording) : begin())}
    >
      <Icon name="speak" />
    </button>
  );
};
