import { useEffect, useRef } from "react";
// The one that apps' pages use: it makes elements, and never sets HTML.
import { markdown } from "../../src/modelyard/gateway/chat_page/static/markdown.js";

export const Markdown = ({ text }: { text: string }) => {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => place.current?.replaceChildren(markdown(text) as DocumentFragment), [text]);
  return <div className="said" ref={place} />;
};
