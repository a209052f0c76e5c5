import type { KeyboardEvent } from "react";

export interface Shortcuts {
  save: () => void;
  undo: () => void;
  redo: () => void;
  copy: () => void;
  paste: () => void;
}

// Shortcuts with Control or Command. In a text field, all but "save" are the browser's.
export const keyboardShortcuts = (shortcuts: Shortcuts) => (event: KeyboardEvent) => {
  if (!event.ctrlKey && !event.metaKey) return;
  const key = event.key.toLowerCase();
  if (key === "s") {
    event.preventDefault();
    shortcuts.save();
  }
  if ((event.target as HTMLElement).closest("input, textarea, select, .code")) return;
  if (key === "z") {
    event.preventDefault();
    if (event.shiftKey) shortcuts.redo();
    else shortcuts.undo();
  }
  if (key === "y") {
    event.preventDefault();
    shortcuts.redo();
  }
  if (key === "c") shortcuts.copy();
  if (key === "v") shortcuts.paste();
};
