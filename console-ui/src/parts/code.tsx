import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import { json } from "@codemirror/lang-json";
import { python } from "@codemirror/lang-python";
import { yaml } from "@codemirror/lang-yaml";
import { defaultHighlightStyle, indentOnInput, syntaxHighlighting } from "@codemirror/language";
import { EditorState } from "@codemirror/state";
import { EditorView, keymap, lineNumbers } from "@codemirror/view";
import { useEffect, useRef } from "react";

const SPOKEN = { json, python, yaml, text: () => [] };

// Tab leaves the editor, as everywhere on the page.
export const Code = ({ label, value, onChange, language = "text", isFixed = false }: {
  label: string; value: string; onChange?: (text: string) => void; language?: keyof typeof SPOKEN; isFixed?: boolean;
}) => {
  const place = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView | null>(null);
  const told = useRef(onChange);
  told.current = onChange;
  useEffect(() => {
    // In a tree of its own, where styles are adopted as sheets: the page's policy allows no style elements.
    const root = place.current!.shadowRoot ?? place.current!.attachShadow({ mode: "open" });
    root.replaceChildren();
    const made = new EditorView({
      root, parent: root,
      state: EditorState.create({
        doc: value,
        extensions: [
          lineNumbers(), history(), indentOnInput(), syntaxHighlighting(defaultHighlightStyle), keymap.of([...defaultKeymap, ...historyKeymap]),
          SPOKEN[language](), EditorView.lineWrapping, EditorView.contentAttributes.of({ "aria-label": label, ...(isFixed ? { tabindex: "0" } : {}) }),
          EditorView.theme({ "&": { fontSize: "13px", minHeight: "90px", color: "#1b1d22", backgroundColor: "#fff" }, "&.cm-focused": { outline: "none" } }), EditorView.editable.of(!isFixed), EditorState.readOnly.of(isFixed),
          EditorView.updateListener.of((update) => { if (update.docChanged) told.current?.(update.state.doc.toString()); }),
        ],
      }),
    });
    view.current = made;
    return () => made.destroy();
  }, [language, label, isFixed]); // eslint-disable-line
  useEffect(() => {
    const now = view.current;
    if (now && now.state.doc.toString() !== value) now.dispatch({ changes: { from: 0, to: now.state.doc.length, insert: value } });
  }, [value]);
  return <div className="code" ref={place} />;
};
