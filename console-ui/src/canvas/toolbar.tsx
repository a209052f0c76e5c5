// The buttons above the canvas.
import { Choose } from "../components/menu";
import { useChosen } from "../settings";
import { useNodeTypeLabel } from "./node-labels";
import { AGENT_JOB } from "./templates";
import type { History } from "./use-history";
import type { Saving } from "./use-saving";
import type { Panel, Selection } from "./use-selection";

// The types of nodes that can be added, in the menu's order.
const NODE_TYPES = [
  "llm",
  "answer",
  "end",
  "code",
  "template-transform",
  "if-else",
  "question-classifier",
  "parameter-extractor",
  "knowledge-retrieval",
  "http-request",
  "tool",
  "agent",
  AGENT_JOB,
  "iteration",
  "loop",
  "loop-end",
  "variable-aggregator",
  "assigner",
  "list-operator",
  "document-extractor",
  "human-input",
  "start",
  "trigger-webhook",
  "trigger-schedule",
  "trigger-plugin",
  "datasource",
  "knowledge-index",
];

const HistoryButtons = ({ history }: { history: History }) => {
  const { t } = useChosen();
  return (
    <>
      <button type="button" onClick={history.undo} disabled={!history.canUndo} aria-keyshortcuts="Control+Z">
        {t.undo}
      </button>
      <button type="button" onClick={history.redo} disabled={!history.canRedo} aria-keyshortcuts="Control+Y">
        {t.redo}
      </button>
    </>
  );
};

const PanelButton = ({ name, label, selection }: { name: Panel; label: string; selection: Selection }) => (
  <button
    type="button"
    {...(name === "run" ? { className: "primary" } : {})}
    aria-pressed={selection.panel === name}
    onClick={() => selection.togglePanel(name)}
  >
    {label}
  </button>
);

const SaveButtons = ({ state, saving }: { state: DraftState; saving: Saving }) => {
  const { t } = useChosen();
  const { isDirty, hasDraft, isPublished } = state;
  const { save, publish, isConflict } = saving;
  const isUnchanged = !hasDraft && !isDirty && isPublished;
  return (
    <>
      <button
        type="button"
        disabled={!isDirty || save.isBusy || isConflict}
        onClick={() => void save.run()}
        aria-keyshortcuts="Control+S"
      >
        {t.save}
      </button>
      <button type="button" disabled={isUnchanged || publish.isBusy || isConflict} onClick={() => void publish.run()}>
        {t.publish}
      </button>
    </>
  );
};

export interface DraftState {
  isDirty: boolean;
  hasDraft: boolean;
  isPublished: boolean;
}

export const Toolbar = ({
  history,
  selection,
  saving,
  state,
  onTidy,
  onAdd,
}: {
  history: History;
  selection: Selection;
  saving: Saving;
  state: DraftState;
  onTidy: () => void;
  onAdd: (type: string) => void;
}) => {
  const { t } = useChosen();
  const typeLabel = useNodeTypeLabel();
  return (
    <>
      <HistoryButtons history={history} />
      <button type="button" onClick={onTidy}>
        {t.tidy}
      </button>
      <Choose label={t.addNode} items={NODE_TYPES.map((type) => [type, typeLabel(type)] as const)} onChoose={onAdd} />
      <PanelButton name="variables" label={t.variables} selection={selection} />
      <PanelButton name="versions" label={t.versions} selection={selection} />
      <PanelButton name="run" label={t.run} selection={selection} />
      <SaveButtons state={state} saving={saving} />
    </>
  );
};
