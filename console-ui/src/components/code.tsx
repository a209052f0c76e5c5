import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import { json } from "@codemirror/lang-json";
import { python } from "@codemirror/lang-python";
import { yaml } from "@codemirror/lang-yaml";
import { HighlightStyle, indentOnInput, syntaxHighlighting } from "@codemirror/language";
import { EditorState } from "@codemirror/state";
import { EditorView, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { useEffect, useRef } from "react";

// In the page's own colours, which change with its theme.
const COLOURS = HighlightStyle.define([
  { tag: [tags.keyword, tags.bool, tags.null], color: "var(--line-4)" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--good)" },
  { tag: tags.number, color: "var(--busy)" },
  { tag: [tags.comment, tags.meta], color: "var(--soft)" },
  {
    tag: [tags.propertyName, tags.definition(tags.propertyName), tags.function(tags.variableName)],
    color: "var(--accent)",
  },
]);
const THEME = {
  "&": { fontSize: "13px", minHeight: "90px", color: "var(--front)", backgroundColor: "var(--back)" },
  "&.cm-focused": { outline: "none" },
  ".cm-cursor": { borderLeftColor: "var(--front)" },
  ".cm-gutters": { backgroundColor: "var(--panel)", color: "var(--soft)", border: "none" },
  "&.cm-focused .cm-selectionBackground, .cm-selectionBackground": { background: "var(--mine)" },
};

const SPOKEN = { json, python, yaml, text: () => [] };

// Tab leaves the editor, as everywhere on the page.
export const Code = ({
  label,
  value,
  onChange,
  language = "text",
  isFixed = false,
}: {
  label: string;
  value: string;
  onChange?: (text: string) => void;
  language?: keyof typeof SPOKEN;
  isFixed?: boolean;
}) => {
  const container = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView | null>(null);
  const currentOnChange = useRef(onChange);
  currentOnChange.current = onChange;
  // biome-ignore lint/correctness/useExhaustiveDependencies: the text is put in below, without making the editor anew
  useEffect(() => {
    // In a tree of its own, where styles are adopted as sheets: the page's policy allows no style elements.
    const root = container.current!.shadowRoot ?? container.current!.attachShadow({ mode: "open" });
    root.replaceChildren();
    const editor = new EditorView({
      root,
      parent: root,
      state: EditorState.create({
        doc: value,
        extensions: [
          lineNumbers(),
          history(),
          indentOnInput(),
          syntaxHighlighting(COLOURS),
          keymap.of([...defaultKeymap, ...historyKeymap]),
          SPOKEN[language](),
          EditorView.lineWrapping,
          EditorView.contentAttributes.of({ "aria-label": label, ...(isFixed ? { tabindex: "0" } : {}) }),
          EditorView.theme(THEME),
          EditorView.editable.of(!isFixed),
          EditorState.readOnly.of(isFixed),
          EditorView.updateListener.of((update) => {
            if (update.docChanged) currentOnChange.current?.(update.state.doc.toString());
          }),
        ],
      }),
    });
    view.current = editor;
    return () => editor.destroy();
  }, [language, label, isFixed]);
  useEffect(() => {
    const editorView = view.current;
    if (editorView && editorView.state.doc.toString() !== value)
      editorView.dispatch({ changes: { from: 0, to: editorView.state.doc.length, insert: value } });
  }, [value]);
  return <div className="code" ref={container} />;
};
