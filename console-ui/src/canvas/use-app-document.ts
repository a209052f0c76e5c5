import { useCallback, useMemo, useRef, useState } from "react";
import { type AppFile, write } from "./file";

// The app on the canvas. `current` holds the latest one for callbacks that outlive a rendering.
export const useAppDocument = (initial: AppFile) => {
  const [graph, setGraph] = useState(initial.graph);
  const [document, setDocument] = useState(initial.document);
  const app = useMemo<AppFile>(() => ({ document, graph }), [document, graph]);
  const current = useRef(app);
  current.current = app;
  const text = useCallback(() => write(current.current), []);
  const replaceDocument = (next: AppFile["document"]) => {
    setDocument(next);
    current.current = { ...current.current, document: next };
  };
  return { app, current, text, setGraph, replaceDocument };
};
