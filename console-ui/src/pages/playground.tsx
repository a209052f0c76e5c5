import { Tabbed } from "../components/aria";
import { Page } from "../components/base";
import { useChosen, useKept } from "../settings";
import { Chat } from "./playground/chat";
import { Embed, Moderate, Rerank, Speak, Transcribe } from "./playground/others";

// Every model type tried by hand. What is written stays over a reload.
export const Playground = () => {
  const { t } = useChosen();
  const [at, setAt] = useKept("playground.tab", "llm");
  return (
    <Page title={t.playground}>
      <Tabbed
        label={t.modelTypes}
        at={at}
        onChange={setAt}
        tabs={[
          { id: "llm", title: t.types.llm, body: () => <Chat /> },
          { id: "text-embedding", title: t.types["text-embedding"], body: () => <Embed /> },
          { id: "rerank", title: t.types.rerank, body: () => <Rerank /> },
          { id: "speech2text", title: t.types.speech2text, body: () => <Transcribe /> },
          { id: "tts", title: t.types.tts, body: () => <Speak /> },
          { id: "moderation", title: t.types.moderation, body: () => <Moderate /> },
        ]}
      />
    </Page>
  );
};
