import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { HasToasts } from "../components/base";
import { Chooses } from "../settings";
import { CHAT_WORDS } from "./messages";
import { ChatPage } from "./page";
import { Talk } from "./talk";
import "../style.css";
import "./chat.css";

const talk = new Talk();

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Chooses words={CHAT_WORDS} requestedLanguage={new URLSearchParams(location.search).get("lang")}>
      <HasToasts>
        <ChatPage talk={talk} />
      </HasToasts>
    </Chooses>
  </StrictMode>,
);
void talk.begin();
