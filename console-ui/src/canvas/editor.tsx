// A workflow drawn: nodes with forms, validated while one writes, run while one watches, and past runs shown again.
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useParams, useSearch } from "@tanstack/react-router";
import {
  applyEdgeChanges,
  applyNodeChanges,
  Background,
  type Connection,
  Controls,
  type Edge,
  type EdgeChange,
  MiniMap,
  type NodeChange,
  ReactFlow,
  ReactFlowProvider,
  useReactFlow,
} from "@xyflow/react";
import "@xyflow/react/dist/base.css";
import { type KeyboardEvent, useCallback, useEffect, useMemo, useRef, useState } from "react";
import { addressed, api, events } from "../api";
import { useDo } from "../components/actions";
import { Card, Field, Json, Page, Pick, Status, Trouble, useToast, useWrong } from "../components/base";
import { Dialog } from "../components/dialog";
import { type Form, Inputs, type RunEvent, ready } from "../components/inputs";
import { Choose } from "../components/menu";
import { useUpload } from "../components/uploads";
import { filled } from "../messages";
import { useChosen, useKept } from "../settings";
import {
  type AppFile,
  CONTAINERS,
  type Data,
  type Drawn,
  difference,
  type FlowNode,
  fresh,
  INNER,
  laidOut,
  newId,
  ROOTS,
  read,
  write,
} from "./file";
import { Inspector } from "./inspector";
import { type Doing, Happening, Note, Step } from "./step";

const KINDS = { step: Step, note: Note };
const ADDED = [
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
const CLIPBOARD = "modelyard.nodes";

export const Editor = () => {
  const { id } = useParams({ strict: false }) as { id: string };
  return (
    <ReactFlowProvider>
      <Loaded key={id} id={id} />
    </ReactFlowProvider>
  );
};

interface Kept {
  text: string;
  base: string;
}

const Loaded = ({ id }: { id: string }) => {
  const { t } = useChosen();
  const app = useQuery({ queryKey: ["apps", id], queryFn: () => api.app(id) });
  const digest = app.data?.digest;
  const file = useQuery({
    queryKey: ["app file", id, digest],
    queryFn: () => api.appFile(id),
    enabled: !!digest,
    staleTime: Infinity,
  });
  const [kept, setKept] = useKept<Kept | null>(`canvas.${id}`, null);
  const [round, setRound] = useState(0);
  const said = useWrong();
  // What is on the canvas began as one version of the file, and stays that until it is saved or given up.
  const begun = useRef<Kept | null>(null);
  if (file.data !== undefined && digest && !begun.current) begun.current = kept ?? { text: file.data, base: digest };
  // biome-ignore lint/correctness/useExhaustiveDependencies: read once a file, and again when a draft is given up
  const first = useMemo(() => {
    if (!begun.current) return null;
    try {
      return { app: read(begun.current.text) };
    } catch (error) {
      return { trouble: said(error) };
    }
  }, [file.data !== undefined, round]);
  if (!app.data || !first)
    return (
      <Page title={app.data?.name ?? t.workflows}>
        <Trouble of={[app, file]} />
      </Page>
    );
  if (first.trouble !== undefined || !first.app)
    return (
      <Page title={app.data.name}>
        <p className="wrong" role="alert">
          {first.trouble}
        </p>
      </Page>
    );
  return (
    <Canvas
      key={round}
      id={id}
      name={app.data.name}
      mode={app.data.mode}
      digest={digest!}
      base={begun.current!.base}
      first={first.app}
      isDirty={kept !== null}
      saved={file.data ?? ""}
      isPublished={app.data.is_published}
      hasDraft={app.data.has_draft}
      onEdit={(text, base) => setKept({ text, base })}
      onSaved={(base, text) => {
        setKept(null);
        begun.current = { base, text };
      }}
      onReload={(next) => {
        setKept(null);
        begun.current = next ?? (file.data !== undefined ? { text: file.data, base: digest! } : null);
        setRound((one) => one + 1);
      }}
    />
  );
};

const Canvas = ({
  id,
  name,
  mode,
  digest,
  base,
  first,
  isDirty: isKept,
  saved,
  isPublished,
  hasDraft,
  onEdit,
  onSaved,
  onReload,
}: {
  id: string;
  name: string;
  mode: string;
  digest: string;
  base: string;
  first: AppFile;
  isDirty: boolean;
  saved: string;
  isPublished: boolean;
  hasDraft: boolean;
  onEdit: (text: string, base: string) => void;
  onSaved: (base: string, text: string) => void;
  onReload: (next?: Kept) => void;
}) => {
  const { t } = useChosen();
  const toast = useToast();
  const flow = useReactFlow();
  const navigate = useNavigate();
  const search = useSearch({ strict: false }) as { run?: string; node?: string };
  const [drawn, setDrawn] = useState<Drawn>(first.drawn);
  const [document, setDocument] = useState(first.document);
  const [past, setPast] = useState<Drawn[]>([]);
  const [future, setFuture] = useState<Drawn[]>([]);
  const [selected, setSelected] = useState(search.node ?? "");
  const [panel, setPanel] = useState<"" | "run" | "versions" | "variables">(search.run ? "run" : "");
  const [doing, setDoing] = useState<Record<string, Doing>>({});
  // The address says which node is open, so that it can be shown to somebody else.
  // biome-ignore lint/correctness/useExhaustiveDependencies: the address follows the choice, not the other way round
  useEffect(() => {
    if ((search.node ?? "") === selected) return;
    const next = (now: object) => ({ ...now, node: selected || undefined });
    void navigate({ to: "/workflows/$id", params: { id }, search: next as never, replace: true });
  }, [selected]);
  const [problems, setProblems] = useState<Record<string, string[]>>({});
  const [general, setGeneral] = useState<string[]>([]);
  const [times, setTimes] = useState<Record<string, number[]>>({});
  const [isTouched, setTouched] = useState(false);
  const isDirty = isKept || isTouched;
  const baseNow = useRef(base);
  const app = useMemo<AppFile>(() => ({ document, drawn }), [document, drawn]);
  const appNow = useRef(app);
  appNow.current = app;
  const text = useCallback(() => write(appNow.current), []);

  // Every change that is more than a look is kept, can be undone, and is looked at by the server a moment later.
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const look = useCallback((now: string) => {
    void api.checkApp(now).then(
      (told) => {
        const found: Record<string, string[]> = {};
        const rest: string[] = [];
        for (const one of [...told.problems, ...told.warnings]) {
          const owner = appNow.current.drawn.nodes.find(
            (node) => one.node && (node.id === one.node || node.data.node.title === one.node),
          );
          if (owner)
            found[owner.id] = [...(found[owner.id] ?? []), `${one.field ? `${one.field}: ` : ""}${one.message}`];
          else rest.push(one.message);
        }
        setProblems(found);
        setGeneral(rest);
        setTimes(Object.fromEntries(told.schedules.map((one) => [one.node, one.next])));
      },
      () => undefined,
    );
  }, []);
  const changed = useCallback(() => {
    clearTimeout(timer.current);
    setTouched(true);
    timer.current = setTimeout(() => {
      const now = write(appNow.current);
      onEdit(now, baseNow.current);
      look(now);
    }, 500);
  }, [onEdit, look]);
  useEffect(() => {
    look(write(appNow.current));
    return () => clearTimeout(timer.current);
  }, [look]);
  const edit = useCallback(
    (make: (now: Drawn) => Drawn) => {
      setPast((all) => [...all.slice(-99), appNow.current.drawn]);
      setFuture([]);
      setDrawn((now) => make(now));
      changed();
    },
    [changed],
  );
  const undo = () => {
    const last = past.at(-1);
    if (!last) return;
    setPast(past.slice(0, -1));
    setFuture([...future, drawn]);
    setDrawn(last);
    changed();
  };
  const redo = () => {
    const next = future.at(-1);
    if (!next) return;
    setFuture(future.slice(0, -1));
    setPast([...past, drawn]);
    setDrawn(next);
    changed();
  };

  const onNodesChange = useCallback(
    (changes: NodeChange<FlowNode>[]) => {
      const isEdit = changes.some(
        (one) =>
          one.type === "remove" ||
          (one.type === "position" && one.dragging === false) ||
          (one.type === "dimensions" && one.resizing === false),
      );
      if (changes.some((one) => one.type === "remove")) setPast((all) => [...all.slice(-99), appNow.current.drawn]);
      setDrawn((now) => ({ ...now, nodes: applyNodeChanges(changes, now.nodes) }));
      if (isEdit) changed();
    },
    [changed],
  );
  const onEdgesChange = useCallback(
    (changes: EdgeChange<Edge>[]) => {
      if (changes.some((one) => one.type === "remove")) {
        setPast((all) => [...all.slice(-99), appNow.current.drawn]);
        changed();
      }
      setDrawn((now) => ({ ...now, edges: applyEdgeChanges(changes, now.edges) }));
    },
    [changed],
  );
  const connect = useCallback(
    (it: Connection | { source: string; sourceHandle: string; target: string }) => {
      if (!it.source || !it.target || it.source === it.target) return;
      const edge: Edge = {
        id: `${it.source}-${it.sourceHandle ?? "source"}-${it.target}-target`,
        source: it.source,
        target: it.target,
        sourceHandle: it.sourceHandle ?? "source",
        targetHandle: "target",
      };
      edit((now) => (now.edges.some((one) => one.id === edge.id) ? now : { ...now, edges: [...now.edges, edge] }));
    },
    [edit],
  );
  const put = useCallback(
    (node: string, data: Data) =>
      edit((now) => ({
        ...now,
        nodes: now.nodes.map((one) => (one.id === node ? { ...one, data: { ...one.data, node: data } } : one)),
      })),
    [edit],
  );
  const removed = useCallback(
    (ids: Set<string>) =>
      edit((now) => {
        const gone = new Set([
          ...ids,
          ...now.nodes.filter((one) => one.parentId && ids.has(one.parentId)).map((one) => one.id),
        ]);
        return {
          nodes: now.nodes.filter((one) => !gone.has(one.id)),
          edges: now.edges.filter((one) => !gone.has(one.source) && !gone.has(one.target)),
        };
      }),
    [edit],
  );

  // A new node comes after the one that is chosen, and is connected to it; a container brings its own beginning.
  const add = (type: string) => {
    const kinds = t.nodeKinds as Record<string, string>;
    const taken = new Set(drawn.nodes.map((one) => one.data.node.title));
    const plain = kinds[type] ?? type;
    let title = plain;
    for (let at = 2; taken.has(title); at++) title = `${plain} ${at}`;
    const after = drawn.nodes.find((one) => one.id === selected);
    const into =
      after &&
      CONTAINERS.includes(after.data.node.type) &&
      drawn.nodes.every((one) => one.parentId !== after.id || INNER.includes(one.data.node.type))
        ? after
        : undefined;
    const parent = into?.id ?? after?.parentId;
    const made = newId();
    const data = fresh(type, title, mode === "advanced-chat");
    const begins = into && drawn.nodes.find((one) => one.parentId === into.id && INNER.includes(one.data.node.type));
    const from = begins ?? after;
    const center = flow.screenToFlowPosition({ x: window.innerWidth / 2, y: window.innerHeight / 2 });
    const nodes: FlowNode[] = [
      {
        id: made,
        type: "step",
        data: {
          node: {
            ...data,
            ...(parent
              ? {
                  [drawn.nodes.find((one) => one.id === parent)?.data.node.type === "loop"
                    ? "loop_id"
                    : "iteration_id"]: parent,
                }
              : {}),
          },
        },
        position: from ? { x: from.position.x + 300, y: from.position.y } : center,
        ...(parent ? { parentId: parent } : {}),
        ...(CONTAINERS.includes(type) ? { style: { width: 460, height: 220 } } : {}),
      },
    ];
    if (CONTAINERS.includes(type)) {
      const start = `${made}start`;
      nodes[0]!.data.node = { ...nodes[0]!.data.node, start_node_id: start };
      nodes.push({
        id: start,
        type: "step",
        parentId: made,
        position: { x: 30, y: 80 },
        data: {
          node: {
            type: `${type}-start`,
            title: "",
            [`${type}_id`]: made,
            [`isIn${type === "loop" ? "Loop" : "Iteration"}`]: true,
          } as Data,
        },
      });
    }
    const isEnd = from && ["end", "loop-end"].includes(from.data.node.type);
    const link: Edge[] =
      from && !isEnd && !ROOTS.includes(type)
        ? [
            {
              id: `${from.id}-source-${made}-target`,
              source: from.id,
              target: made,
              sourceHandle: from.data.node.type === "if-else" ? "true" : "source",
              targetHandle: "target",
            },
          ]
        : [];
    edit((now) => ({ nodes: [...now.nodes, ...nodes], edges: [...now.edges, ...link] }));
    setSelected(made);
    setPanel("");
  };
  const copy = () => {
    const chosen = new Set(drawn.nodes.filter((one) => one.selected || one.id === selected).map((one) => one.id));
    if (!chosen.size) return;
    localStorage.setItem(
      CLIPBOARD,
      JSON.stringify({
        nodes: drawn.nodes.filter((one) => chosen.has(one.id) || (one.parentId && chosen.has(one.parentId))),
        edges: drawn.edges.filter((one) => chosen.has(one.source) && chosen.has(one.target)),
      }),
    );
    toast(filled(t.copiedNodes, { count: chosen.size }));
  };
  const paste = () => {
    const kept = JSON.parse(localStorage.getItem(CLIPBOARD) ?? "null") as Drawn | null;
    if (!kept) return;
    const named = new Map(kept.nodes.map((one) => [one.id, newId()]));
    const nodes = kept.nodes.map(
      (one): FlowNode => ({
        ...one,
        id: named.get(one.id)!,
        selected: false,
        position: one.parentId ? one.position : { x: one.position.x + 40, y: one.position.y + 60 },
        ...(one.parentId ? { parentId: named.get(one.parentId) ?? one.parentId } : {}),
        data: { node: { ...one.data.node, title: one.data.node.title && `${one.data.node.title} 2` } },
      }),
    );
    const edges = kept.edges.map(
      (one): Edge => ({
        ...one,
        id: `${named.get(one.source)}-${one.sourceHandle}-${named.get(one.target)}`,
        source: named.get(one.source)!,
        target: named.get(one.target)!,
      }),
    );
    edit((now) => ({ nodes: [...now.nodes, ...nodes], edges: [...now.edges, ...edges] }));
  };
  const isConflict = digest !== baseNow.current && isDirty;
  const save = useDo(
    async () => {
      const now = text();
      const made = await api.saveApp(id, now, baseNow.current);
      baseNow.current = made.digest;
      clearTimeout(timer.current);
      setTouched(false);
      onSaved(made.digest, now);
      return made;
    },
    ["apps", "app file"],
    t.draftSaved,
  );
  const publish = useDo(
    async () => {
      if (isDirty) await save.run();
      return api.publish(id);
    },
    ["apps"],
    t.publishedNow,
  );
  const onKey = (event: KeyboardEvent) => {
    const isWriting = (event.target as HTMLElement).closest("input, textarea, select, .code");
    const isCommand = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    if (isCommand && key === "s") {
      event.preventDefault();
      void save.run();
    }
    if (isWriting) return;
    if (isCommand && key === "z") {
      event.preventDefault();
      if (event.shiftKey) redo();
      else undo();
    }
    if (isCommand && key === "y") {
      event.preventDefault();
      redo();
    }
    if (isCommand && key === "c") copy();
    if (isCommand && key === "v") paste();
  };
  const happening = useMemo(() => ({ doing, problems }), [doing, problems]);
  const edges = useMemo(
    () =>
      drawn.edges.map((one) => {
        const [a, b] = [doing[one.source]?.status, doing[one.target]?.status];
        return a === "succeeded" && b ? { ...one, animated: b === "running", className: "passed" } : one;
      }),
    [drawn.edges, doing],
  );
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: shortcuts of all that is within
    <div className="editor" onKeyDown={onKey}>
      <Page
        title={name}
        actions={
          <>
            <button type="button" onClick={undo} disabled={!past.length} aria-keyshortcuts="Control+Z">
              {t.undo}
            </button>
            <button type="button" onClick={redo} disabled={!future.length} aria-keyshortcuts="Control+Y">
              {t.redo}
            </button>
            <button
              type="button"
              onClick={() => {
                edit(laidOut);
                setTimeout(() => void flow.fitView({ duration: 200 }), 50);
              }}
            >
              {t.tidy}
            </button>
            <Choose
              label={t.addNode}
              items={ADDED.map((one) => [one, (t.nodeKinds as Record<string, string>)[one] ?? one] as const)}
              onChoose={add}
            />
            <button
              type="button"
              aria-pressed={panel === "variables"}
              onClick={() => setPanel(panel === "variables" ? "" : "variables")}
            >
              {t.variables}
            </button>
            <button
              type="button"
              aria-pressed={panel === "versions"}
              onClick={() => setPanel(panel === "versions" ? "" : "versions")}
            >
              {t.versions}
            </button>
            <button
              type="button"
              className="primary"
              aria-pressed={panel === "run"}
              onClick={() => setPanel(panel === "run" ? "" : "run")}
            >
              {t.run}
            </button>
            <button
              type="button"
              disabled={!isDirty || save.isBusy || isConflict}
              onClick={() => void save.run()}
              aria-keyshortcuts="Control+S"
            >
              {t.save}
            </button>
            <button
              type="button"
              disabled={(!hasDraft && !isDirty && isPublished) || publish.isBusy || isConflict}
              onClick={() => void publish.run()}
            >
              {t.publish}
            </button>
          </>
        }
      >
        <p className="row tight">
          <Link to="/workflows">← {t.workflows}</Link>{" "}
          <Link to="/apps/$id" params={{ id }}>
            {t.appSettings}
          </Link>
          <span className="soft" role="status">
            {isDirty ? t.unsaved : hasDraft ? t.draftKept : isPublished ? t.published : t.neverPublished}
          </span>
        </p>
        {isConflict && (
          <div className="wrong" role="alert">
            <p>{t.conflict}</p>
            <div className="row">
              <button type="button" onClick={() => onReload()}>
                {t.takeTheirs}
              </button>
              <button
                type="button"
                onClick={() => {
                  baseNow.current = digest;
                  void save.run();
                }}
              >
                {t.keepMine}
              </button>
            </div>
          </div>
        )}
        {general.map((one) => (
          <p className="wrong small" key={one}>
            {one}
          </p>
        ))}
        <div className="stage">
          <Happening value={happening}>
            <div className="canvas">
              <ReactFlow<FlowNode, Edge>
                nodes={drawn.nodes}
                edges={edges}
                nodeTypes={KINDS}
                onNodesChange={onNodesChange}
                onEdgesChange={onEdgesChange}
                onConnect={connect}
                onNodeDragStart={() => setPast((all) => [...all.slice(-99), appNow.current.drawn])}
                onSelectionChange={({ nodes }) => {
                  if (nodes.length === 1) {
                    setSelected(nodes[0]!.id);
                    setPanel((now) => (now === "run" ? now : ""));
                  }
                }}
                onPaneClick={() => setSelected("")}
                fitView
                minZoom={0.05}
                onlyRenderVisibleElements
                deleteKeyCode={["Delete", "Backspace"]}
                proOptions={{ hideAttribution: true }}
                aria-label={t.canvas}
                ariaLabelConfig={{
                  "controls.zoomIn.ariaLabel": t.zoomIn,
                  "controls.zoomOut.ariaLabel": t.zoomOut,
                  "controls.fitView.ariaLabel": t.fitView,
                  "minimap.ariaLabel": t.miniMap,
                  "node.a11yDescription.default": t.nodeHelp,
                  "edge.a11yDescription.default": t.edgeHelp,
                }}
              >
                <Background />
                <Controls showInteractive={false} />
                <MiniMap pannable zoomable />
              </ReactFlow>
            </div>
            {panel === "run" ? (
              <Run
                id={id}
                isChat={mode === "advanced-chat"}
                isDirty={isDirty}
                save={() => save.run()}
                replay={search.run ?? ""}
                titles={drawn.nodes}
                onDoing={setDoing}
                onReplay={(run) =>
                  void navigate({
                    to: "/workflows/$id",
                    params: { id },
                    search: ((now: object) => ({ ...now, run: run || undefined })) as never,
                    replace: true,
                  })
                }
              />
            ) : panel === "versions" ? (
              <Versions
                id={id}
                now={text}
                saved={saved}
                onTake={(next) => onReload({ text: next, base: baseNow.current })}
              />
            ) : panel === "variables" ? (
              <Variables
                document={document}
                mode={mode}
                onChange={(next) => {
                  setDocument(next);
                  appNow.current = { ...appNow.current, document: next };
                  changed();
                }}
              />
            ) : (
              selected && (
                <Inspector
                  key={selected}
                  app={app}
                  appId={id}
                  id={selected}
                  text={text}
                  problems={problems[selected] ?? []}
                  times={times[selected] ?? []}
                  onChange={(data) => put(selected, data)}
                  onConnect={(sourceHandle, target) => connect({ source: selected, sourceHandle, target })}
                  onDisconnect={(edge) =>
                    edit((now) => ({ ...now, edges: now.edges.filter((one) => one.id !== edge) }))
                  }
                  onRemove={() => {
                    removed(new Set([selected]));
                    setSelected("");
                  }}
                />
              )
            )}
          </Happening>
        </div>
        <details className="outline">
          <summary>{filled(t.allNodes, { count: drawn.nodes.length })}</summary>
          <ul className="plain">
            {drawn.nodes
              .filter((one) => one.type !== "note" && !INNER.includes(one.data.node.type))
              .slice(0, 500)
              .map((one) => (
                <li key={one.id}>
                  <button
                    type="button"
                    className="link"
                    onClick={() => {
                      setSelected(one.id);
                      setPanel("");
                      void flow.fitView({ nodes: [{ id: one.id }], maxZoom: 1, duration: 200 });
                    }}
                  >
                    {one.data.node.title}
                  </button>{" "}
                  <span className="soft small">
                    {(t.nodeKinds as Record<string, string>)[one.data.node.type] ?? one.data.node.type}
                  </span>
                </li>
              ))}
          </ul>
        </details>
      </Page>
    </div>
  );
};

// What the events so far make of the canvas.
const doneBy = (all: RunEvent[]): Record<string, Doing> => {
  const found: Record<string, Doing> = {};
  const begun = new Map<string, number>();
  for (const one of all) {
    const node = one.node_id;
    if (!node) continue;
    const before = found[node] ?? { status: "", seconds: 0, text: "", count: 0 };
    if (one.event === "node_started") {
      begun.set(one.id ?? node, one.at ?? 0);
      found[node] = { ...before, status: "running", count: before.count + 1, text: "" };
    }
    if (one.event === "node_chunk") found[node] = { ...before, text: before.text + (one.chunk ?? "") };
    if (one.event === "node_paused") found[node] = { ...before, status: "paused" };
    const ended = { node_succeeded: "succeeded", node_failed: "failed", node_exception: "failed" }[one.event];
    if (ended)
      found[node] = { ...before, status: ended, seconds: (one.at ?? 0) - (begun.get(one.id ?? node) ?? one.at ?? 0) };
  }
  return found;
};

const Run = ({
  id,
  isChat,
  isDirty,
  save,
  replay,
  titles,
  onDoing,
  onReplay,
}: {
  id: string;
  isChat: boolean;
  isDirty: boolean;
  save: () => Promise<unknown>;
  replay: string;
  titles: FlowNode[];
  onDoing: (doing: Record<string, Doing>) => void;
  onReplay: (run: string) => void;
}) => {
  const { t, time, span } = useChosen();
  const said = useWrong();
  const roots = titles.filter((one) => ROOTS.includes(one.data.node.type));
  const [chosenRoot, setRoot] = useState("");
  const root = roots.some((one) => one.id === chosenRoot) ? chosenRoot : "";
  const form = useQuery({
    queryKey: ["form", id, "draft", isDirty, root],
    // A node that is not saved yet is not the server's to ask about.
    queryFn: () => api.appForm(id, true, isDirty ? "" : root),
  });
  const runs = useQuery({ queryKey: ["runs", id], queryFn: () => api.appRuns(id) });
  const [values, setValues] = useKept<Record<string, unknown>>(`try.${id}`, {});
  const upload = useUpload(id);
  const [query, setQuery] = useState("");
  const [all, setAll] = useState<RunEvent[]>([]);
  const [at, setAt] = useState<number | null>(null);
  const [isBusy, setBusy] = useState(false);
  const [trouble, setTrouble] = useState("");
  const [run, setRun] = useState("");
  const [open, setOpen] = useState<RunEvent | null>(null);
  const stopping = useRef<AbortController | null>(null);
  const shown = at === null ? all : all.slice(0, at);
  // biome-ignore lint/correctness/useExhaustiveDependencies: what is shown is a part of all, new at each drawing
  useEffect(() => {
    onDoing(doneBy(shown));
  }, [shown.length, all]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: once, when this panel goes
  useEffect(
    () => () => {
      stopping.current?.abort();
      onDoing({});
    },
    [],
  );
  const follow = async (path: string, init: RequestInit) => {
    stopping.current?.abort();
    const mine = new AbortController();
    stopping.current = mine;
    setAll([]);
    setAt(null);
    setTrouble("");
    setBusy(true);
    const waiting: RunEvent[] = [];
    // Events are shown at most once a frame, however many come.
    let frame = 0;
    const flush = () => {
      frame = 0;
      const some = waiting.splice(0);
      setAll((now) => [...now, ...some]);
    };
    try {
      for await (const event of events<RunEvent>(path, { ...init, signal: mine.signal })) {
        if (event.event === "run" && event.run) setRun(event.run.id);
        if (event.event === "error") setTrouble(event.message ?? "");
        waiting.push(event);
        frame ||= requestAnimationFrame(flush);
      }
    } catch (error) {
      if ((error as Error).name !== "AbortError") setTrouble(said(error));
    } finally {
      cancelAnimationFrame(frame);
      flush();
      if (stopping.current === mine) setBusy(false);
      void runs.refetch();
    }
  };
  const go = async () => {
    if (isDirty && !(await save())) return;
    onReplay("");
    const told = await api.appForm(id, true, root).catch((error: unknown) => setTrouble(said(error)));
    if (!told) return;
    const body = {
      draft: true,
      inputs: ready(values, told.data as Form[]),
      ...(isChat ? { query } : {}),
      ...(root ? { root } : {}),
    };
    await follow(`/admin/v1/apps/${encodeURIComponent(id)}/runs`, { method: "POST", body: JSON.stringify(body) });
  };
  // biome-ignore lint/correctness/useExhaustiveDependencies: each run that is asked for is followed once
  useEffect(() => {
    if (replay) void follow(`/admin/v1/runs/${encodeURIComponent(replay)}/events`, {});
  }, [replay]);
  const control = useDo(
    (verb: "stop" | "pause" | "resume") =>
      api.control(run, verb).then(async (told) => {
        if (verb === "resume") void follow(`/admin/v1/runs/${run}/events`, {});
        return told;
      }),
    ["runs"],
  );
  const end = all.findLast((one) => one.event === "end");
  const said_ = shown
    .filter((one) => one.event === "node_chunk")
    .map((one) => one.chunk ?? "")
    .join("");
  const names = new Map(titles.map((one) => [one.id, one.data.node.title]));
  const steps = shown.filter((one) => ["node_succeeded", "node_failed", "node_exception"].includes(one.event));
  return (
    <aside className="inspector" aria-label={t.run}>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void go();
        }}
      >
        <h2>{t.run}</h2>
        <Trouble of={[form]} />
        {roots.length > 1 && (
          <Pick
            label={t.beginsAt}
            value={root || roots[0]!.id}
            onChange={setRoot}
            options={roots.map((one) => [one.id, one.data.node.title] as const)}
          />
        )}
        {form.data && <Inputs upload={upload} form={form.data.data as Form[]} values={values} onChange={setValues} />}
        {isChat && (
          <Field label={t.message}>
            <textarea required rows={2} value={query} onChange={(event) => setQuery(event.target.value)} />
          </Field>
        )}
        <div className="row tight">
          <button type="submit" className="primary" disabled={isBusy}>
            {isDirty ? t.saveAndRun : t.runDraft}
          </button>
          {isBusy && run && (
            <>
              <button type="button" onClick={() => void control.run("stop")}>
                {t.stop}
              </button>
              <button type="button" onClick={() => void control.run("pause")}>
                {t.pause}
              </button>
            </>
          )}
          {!isBusy && end?.run?.status === "paused" && (
            <button type="button" onClick={() => void control.run("resume")}>
              {t.goOn}
            </button>
          )}
        </div>
      </form>
      <div role="status">
        {isBusy && (
          <p>
            <Status is="running" />
          </p>
        )}
        {end?.run && at === null && (
          <p>
            <Status is={end.run.status} /> {span(end.run.elapsed)}
          </p>
        )}
        {(trouble || end?.run?.error) && <p className="wrong">{trouble || end?.run?.error}</p>}
      </div>
      {said_ && <blockquote>{said_}</blockquote>}
      {end?.run && at === null && Object.keys(end.run.outputs).length > 0 && (
        <>
          <h3>{t.outputs}</h3>
          <Json value={end.run.outputs} />
        </>
      )}
      {all.length > 1 && !isBusy && (
        <Field label={t.replayTo}>
          <input
            type="range"
            min={0}
            max={all.length}
            value={at ?? all.length}
            onChange={(event) => setAt(Number(event.target.value) === all.length ? null : Number(event.target.value))}
          />
        </Field>
      )}
      {steps.length > 0 && (
        <ol>
          {steps.map((one, place) => (
            <li key={place}>
              <button type="button" className="link" onClick={() => setOpen(one)}>
                {names.get(one.node_id ?? "") || one.title || one.node_id}
              </button>{" "}
              <Status is={one.event === "node_succeeded" ? "succeeded" : "failed"} />
            </li>
          ))}
        </ol>
      )}
      <details>
        <summary>{t.pastRuns}</summary>
        <ul className="plain">
          {(runs.data?.data ?? []).map((one) => (
            <li key={one.id}>
              <button
                type="button"
                className="link"
                onClick={() => onReplay(one.id)}
                aria-current={one.id === replay ? "true" : undefined}
              >
                {time(one.created_at)}
              </button>{" "}
              <Status is={one.status} />
            </li>
          ))}
        </ul>
      </details>
      <Dialog title={names.get(open?.node_id ?? "") ?? ""} isOpen={open !== null} onClose={() => setOpen(null)} isWide>
        {open && (
          <>
            {open.error && <p className="wrong">{open.error}</p>}
            <h3>{t.inputs}</h3>
            <Json value={open.inputs ?? {}} />
            <h3>{t.outputs}</h3>
            <Json value={open.outputs ?? {}} />
            {open.process_data && (
              <>
                <h3>{t.details}</h3>
                <Json value={open.process_data} />
              </>
            )}
          </>
        )}
      </Dialog>
    </aside>
  );
};

const Versions = ({
  id,
  now,
  saved,
  onTake,
}: {
  id: string;
  now: () => string;
  saved: string;
  onTake: (text: string) => void;
}) => {
  const { t, time } = useChosen();
  const app = useQuery({ queryKey: ["apps", id], queryFn: () => api.app(id) });
  const [chosen, setChosen] = useState("");
  const other = useQuery({
    queryKey: ["app file", id, "version", chosen],
    queryFn: () => (chosen ? api.appFile(id, chosen) : Promise.resolve(saved)),
    staleTime: Infinity,
  });
  const lines = useMemo(
    () => (other.data === undefined ? [] : difference(write(read(other.data)), now())),
    [other.data, now],
  );
  return (
    <aside className="inspector" aria-label={t.versions}>
      <h2>{t.versions}</h2>
      <Pick
        label={t.compareWith}
        value={chosen}
        onChange={setChosen}
        options={[
          ["", t.asSaved],
          ...(app.data?.versions ?? []).map(
            (one) => [one.digest, `${one.name || one.digest.slice(0, 8)} · ${time(one.published_at)}`] as const,
          ),
        ]}
      />
      <div className="row">
        <a
          className="button"
          href={addressed(`/admin/v1/apps/${id}/file${chosen ? `?version=${chosen}` : ""}`)}
          download={`${app.data?.name ?? "app"}.yml`}
        >
          {t.exportFile}
        </a>
        {other.data !== undefined && (
          <button type="button" onClick={() => onTake(other.data)}>
            {t.takeThis}
          </button>
        )}
      </div>
      <Trouble of={[other]} />
      {other.data !== undefined &&
        (lines.length ? (
          <pre className="diff" tabIndex={0}>
            {lines.map((one, at) => (
              <span key={at} className={one.sign === "+" ? "plus" : one.sign === "-" ? "minus" : ""}>
                {one.sign} {one.text}
                {"\n"}
              </span>
            ))}
          </pre>
        ) : (
          <p className="soft">{t.noDifference}</p>
        ))}
    </aside>
  );
};

interface Stored {
  id?: string;
  name: string;
  value: unknown;
  value_type: string;
  description?: string;
}

const Variables = ({
  document,
  mode,
  onChange,
}: {
  document: Record<string, unknown>;
  mode: string;
  onChange: (document: Record<string, unknown>) => void;
}) => {
  const { t } = useChosen();
  const workflow = (document.workflow ?? {}) as Record<string, unknown>;
  const kinds = [
    ["environment_variables", t.environment, ["string", "number", "secret"]],
    ...(mode === "advanced-chat"
      ? [
          [
            "conversation_variables",
            t.ofConversation,
            ["string", "number", "object", "array[string]", "array[number]", "array[object]"],
          ] as const,
        ]
      : []),
  ] as const;
  return (
    <aside className="inspector" aria-label={t.variables}>
      {kinds.map(([name, title, types]) => {
        const rows = (workflow[name] ?? []) as Stored[];
        const put = (next: Stored[]) => onChange({ ...document, workflow: { ...workflow, [name]: next } });
        return (
          <Card key={name} title={title}>
            {rows.map((one, at) => {
              const change = (more: Partial<Stored>) =>
                put(rows.map((row, place) => (place === at ? { ...row, ...more } : row)));
              return (
                <div className="card tight" key={one.id ?? at}>
                  <Field label={t.name}>
                    <input value={one.name} onChange={(event) => change({ name: event.target.value })} />
                  </Field>
                  <Pick
                    label={t.type}
                    value={one.value_type}
                    onChange={(value_type) => change({ value_type })}
                    options={types}
                  />
                  <Field label={t.value}>
                    <input
                      type={one.value_type === "secret" ? "password" : "text"}
                      autoComplete="off"
                      value={typeof one.value === "string" ? one.value : JSON.stringify(one.value ?? "")}
                      onChange={(event) => {
                        const text = event.target.value;
                        change({
                          value:
                            one.value_type === "number"
                              ? Number(text) || 0
                              : one.value_type === "string" || one.value_type === "secret"
                                ? text
                                : (() => {
                                    try {
                                      return JSON.parse(text) as unknown;
                                    } catch {
                                      return text;
                                    }
                                  })(),
                        });
                      }}
                    />
                  </Field>
                  <button type="button" onClick={() => put(rows.filter((_, place) => place !== at))}>
                    {t.remove}
                  </button>
                </div>
              );
            })}
            <button
              type="button"
              onClick={() =>
                put([
                  ...rows,
                  {
                    id: newId(),
                    name: `variable_${rows.length + 1}`,
                    value: "",
                    value_type: "string",
                    description: "",
                  },
                ])
              }
            >
              {t.add}
            </button>
          </Card>
        );
      })}
    </aside>
  );
};
