// A workflow on a canvas: nodes with forms, checked while someone edits them, and runs that are shown as they happen.
import { useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { ReactFlowProvider, useReactFlow } from "@xyflow/react";
import "@xyflow/react/dist/base.css";
import { useCallback, useMemo, useRef, useState } from "react";
import { api } from "../api";
import { Page, Trouble, useWrong } from "../components/base";
import { useChosen, useKept } from "../settings";
import { useAppCheck } from "./app-check";
import { type AppFile, read } from "./file";
import { merge, removeEdge, removeNode, replaceNodeData } from "./graph-edits";
import { GraphView } from "./graph-view";
import { Inspector } from "./inspector";
import { keyboardShortcuts } from "./keyboard-shortcuts";
import { layOut } from "./layout";
import { newNode } from "./new-node";
import { useNodeTypeLabel } from "./node-labels";
import { Outline } from "./outline";
import { RunPanel } from "./run-panel";
import { type NodeProgress, NodeStates } from "./step";
import { type DraftState, Toolbar } from "./toolbar";
import { useAppDocument } from "./use-app-document";
import { useAutosave } from "./use-autosave";
import { useClipboard } from "./use-clipboard";
import { useGraphChanges } from "./use-graph-changes";
import { useHistory } from "./use-history";
import { useSaving } from "./use-saving";
import { useSelection } from "./use-selection";
import { Variables } from "./variables-panel";
import { Versions } from "./versions-panel";

export const Editor = () => {
  const { id } = useParams({ strict: false }) as { id: string };
  return (
    <ReactFlowProvider>
      <Loader key={id} id={id} />
    </ReactFlowProvider>
  );
};

// A text of the app's file, and the digest of the version that it is based on.
interface Draft {
  text: string;
  base: string;
}

// The draft that this browser keeps, else the server's file, read once. It stays on the canvas until it is saved or
// given up, whatever version the server has by then.
const useDraft = (id: string, digest: string | undefined, fileText: string | undefined) => {
  const [storedDraft, setStoredDraft] = useKept<Draft | null>(`canvas.${id}`, null);
  const [generation, setGeneration] = useState(0);
  const errorText = useWrong();
  const openedDraft = useRef<Draft | null>(null);
  if (fileText !== undefined && digest && !openedDraft.current)
    openedDraft.current = storedDraft ?? { text: fileText, base: digest };
  // biome-ignore lint/correctness/useExhaustiveDependencies: read once a file, and again when a draft is given up
  const content = useMemo((): { app?: AppFile; error?: string } | null => {
    if (!openedDraft.current) return null;
    try {
      return { app: read(openedDraft.current.text) };
    } catch (error) {
      return { error: errorText(error) };
    }
  }, [fileText !== undefined, generation]);
  return {
    content,
    generation,
    base: openedDraft.current?.base ?? "",
    isKept: storedDraft !== null,
    keep: (text: string, base: string) => setStoredDraft({ text, base }),
    markSaved: (base: string, text: string) => {
      setStoredDraft(null);
      openedDraft.current = { base, text };
    },
    // Without a draft, the server's file is opened again.
    reopen: (draft?: Draft) => {
      setStoredDraft(null);
      openedDraft.current = draft ?? (fileText !== undefined ? { text: fileText, base: digest! } : null);
      setGeneration((count) => count + 1);
    },
  };
};
type DraftControl = ReturnType<typeof useDraft>;

const Loader = ({ id }: { id: string }) => {
  const { t } = useChosen();
  const app = useQuery({ queryKey: ["apps", id], queryFn: () => api.app(id) });
  const digest = app.data?.digest;
  const file = useQuery({
    queryKey: ["app file", id, digest],
    queryFn: () => api.appFile(id),
    enabled: !!digest,
    staleTime: Infinity,
  });
  const draft = useDraft(id, digest, file.data);
  if (!app.data || !draft.content)
    return (
      <Page title={app.data?.name ?? t.workflows}>
        <Trouble of={[app, file]} />
      </Page>
    );
  if (!draft.content.app)
    return (
      <Page title={app.data.name}>
        <p className="wrong" role="alert">
          {draft.content.error}
        </p>
      </Page>
    );
  return (
    <Canvas
      key={draft.generation}
      id={id}
      name={app.data.name}
      mode={app.data.mode}
      digest={digest!}
      initial={draft.content.app}
      savedText={file.data ?? ""}
      isPublished={app.data.is_published}
      hasDraft={app.data.has_draft}
      draft={draft}
    />
  );
};

interface CanvasOptions {
  id: string;
  name: string;
  mode: string;
  // Of the version that the server has now.
  digest: string;
  initial: AppFile;
  savedText: string;
  isPublished: boolean;
  hasDraft: boolean;
  draft: DraftControl;
}

// The state of the canvas, and all that can be done with it.
const useCanvas = ({ id, mode, digest, initial, draft }: CanvasOptions) => {
  const flow = useReactFlow();
  const typeLabel = useNodeTypeLabel();
  const { app, current, text, setGraph, replaceDocument } = useAppDocument(initial);
  const selection = useSelection(id);
  const { check, ...findings } = useAppCheck(current);
  const baseDigest = useRef(draft.base);
  const { keep } = draft;
  const keepDraft = useCallback((draftText: string) => keep(draftText, baseDigest.current), [keep]);
  const autosave = useAutosave(text, keepDraft, check);
  const history = useHistory(current, setGraph, autosave.schedule);
  const changes = useGraphChanges(history, setGraph, autosave.schedule);
  const clipboard = useClipboard(app.graph, selection.selectedId, history.edit);
  const isDirty = draft.isKept || autosave.isTouched;
  const onSaved = (savedDigest: string, savedText: string) => {
    autosave.markSaved();
    draft.markSaved(savedDigest, savedText);
  };
  const saving = useSaving({ id, digest, baseDigest, isDirty, text, onSaved });
  const addNode = (type: string) => {
    const added = newNode(type, app.graph, {
      typeLabel: typeLabel(type),
      selectedId: selection.selectedId,
      isChat: mode === "advanced-chat",
      position: flow.screenToFlowPosition({ x: window.innerWidth / 2, y: window.innerHeight / 2 }),
    });
    history.edit((graph) => merge(graph, added));
    selection.openNode(added.nodes[0]!.id);
  };
  const tidy = () => {
    history.edit(layOut);
    // The view fits once the nodes have moved.
    setTimeout(() => void flow.fitView({ duration: 200 }), 50);
  };
  const showNode = (nodeId: string) => {
    selection.openNode(nodeId);
    void flow.fitView({ nodes: [{ id: nodeId }], maxZoom: 1, duration: 200 });
  };
  const changeDocument = (document: AppFile["document"]) => {
    replaceDocument(document);
    autosave.schedule();
  };
  return {
    app,
    text,
    selection,
    findings,
    baseDigest,
    history,
    changes,
    clipboard,
    isDirty,
    saving,
    addNode,
    tidy,
    showNode,
    changeDocument,
  };
};
type CanvasControl = ReturnType<typeof useCanvas>;

const Canvas = (options: CanvasOptions) => {
  const { t } = useChosen();
  const canvas = useCanvas(options);
  const { app, selection, findings, history, saving } = canvas;
  const [progress, setProgress] = useState<Record<string, NodeProgress>>({});
  const { problems } = findings;
  const nodeStates = useMemo(() => ({ progress, problems }), [progress, problems]);
  const state: DraftState = {
    isDirty: canvas.isDirty,
    hasDraft: options.hasDraft,
    isPublished: options.isPublished,
  };
  const onKeyDown = keyboardShortcuts({
    save: () => void saving.save.run(),
    undo: history.undo,
    redo: history.redo,
    ...canvas.clipboard,
  });
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: shortcuts of all that is within
    <div className="editor" onKeyDown={onKeyDown}>
      <Page
        title={options.name}
        actions={
          <Toolbar
            history={history}
            selection={selection}
            saving={saving}
            state={state}
            onTidy={canvas.tidy}
            onAdd={canvas.addNode}
          />
        }
      >
        <p className="row tight">
          <Link to="/workflows">← {t.workflows}</Link>{" "}
          <Link to="/apps/$id" params={{ id: options.id }}>
            {t.appSettings}
          </Link>
          <DraftStatus {...state} />
        </p>
        {saving.isConflict && <Conflict onTakeTheirs={() => options.draft.reopen()} onKeepMine={saving.overwrite} />}
        {findings.appProblems.map((message) => (
          <p className="wrong small" key={message}>
            {message}
          </p>
        ))}
        <div className="stage">
          <NodeStates value={nodeStates}>
            <GraphView
              graph={app.graph}
              progress={progress}
              changes={canvas.changes}
              onDragStart={history.remember}
              onSelectNode={selection.selectOnCanvas}
              onSelectNothing={() => selection.select("")}
            />
            <SidePanel canvas={canvas} options={options} onProgress={setProgress} />
          </NodeStates>
        </div>
        <Outline nodes={app.graph.nodes} onOpen={canvas.showNode} />
      </Page>
    </div>
  );
};

const DraftStatus = ({ isDirty, hasDraft, isPublished }: DraftState) => {
  const { t } = useChosen();
  const publication = isPublished ? t.published : t.neverPublished;
  const saved = hasDraft ? t.draftKept : publication;
  return (
    <span className="soft" role="status">
      {isDirty ? t.unsaved : saved}
    </span>
  );
};

// Someone else saved another version: one of the two has to give way.
const Conflict = ({ onTakeTheirs, onKeepMine }: { onTakeTheirs: () => void; onKeepMine: () => void }) => {
  const { t } = useChosen();
  return (
    <div className="wrong" role="alert">
      <p>{t.conflict}</p>
      <div className="row">
        <button type="button" onClick={onTakeTheirs}>
          {t.takeTheirs}
        </button>
        <button type="button" onClick={onKeepMine}>
          {t.keepMine}
        </button>
      </div>
    </div>
  );
};

interface SidePanelOptions {
  canvas: CanvasControl;
  options: CanvasOptions;
  onProgress: (progress: Record<string, NodeProgress>) => void;
}

const SidePanel = ({ canvas, options, onProgress }: SidePanelOptions) => {
  const { app, text, selection, saving } = canvas;
  const { id, mode, draft } = options;
  switch (selection.panel) {
    case "run":
      return (
        <RunPanel
          id={id}
          isChat={mode === "advanced-chat"}
          isDirty={canvas.isDirty}
          save={() => saving.save.run()}
          replayedRun={selection.runId}
          nodes={app.graph.nodes}
          onProgress={onProgress}
          onReplay={selection.showRun}
        />
      );
    case "versions":
      return (
        <Versions
          id={id}
          currentText={text}
          savedText={options.savedText}
          onTake={(next) => draft.reopen({ text: next, base: canvas.baseDigest.current })}
        />
      );
    case "variables":
      return <Variables document={app.document} mode={mode} onChange={canvas.changeDocument} />;
    default:
      return selection.selectedId ? <NodePanel canvas={canvas} appId={id} /> : null;
  }
};

const NodePanel = ({ canvas, appId }: { canvas: CanvasControl; appId: string }) => {
  const { app, text, selection, findings, history, changes } = canvas;
  const nodeId = selection.selectedId;
  return (
    <Inspector
      key={nodeId}
      app={app}
      appId={appId}
      id={nodeId}
      text={text}
      problems={findings.problems[nodeId] ?? []}
      times={findings.times[nodeId] ?? []}
      onChange={(data) => history.edit((graph) => replaceNodeData(graph, nodeId, data))}
      onChangeDocument={canvas.changeDocument}
      onConnect={(sourceHandle, target) => changes.connect({ source: nodeId, sourceHandle, target })}
      onDisconnect={(edgeId) => history.edit((graph) => removeEdge(graph, edgeId))}
      onRemove={() => {
        history.edit((graph) => removeNode(graph, nodeId));
        selection.select("");
      }}
    />
  );
};
