import { useCallback, useEffect, useRef, useState } from "react";

const DELAY_MS = 500;

// Keeps the draft in the browser, and has the server check it, a moment after the last change.
export const useAutosave = (text: () => string, keep: (text: string) => void, check: (text: string) => void) => {
  const [isTouched, setTouched] = useState(false);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const schedule = useCallback(() => {
    clearTimeout(timer.current);
    setTouched(true);
    timer.current = setTimeout(() => {
      const draft = text();
      keep(draft);
      check(draft);
    }, DELAY_MS);
  }, [text, keep, check]);
  useEffect(() => {
    check(text());
    return () => clearTimeout(timer.current);
  }, [text, check]);
  const markSaved = () => {
    clearTimeout(timer.current);
    setTouched(false);
  };
  return { isTouched, schedule, markSaved };
};
