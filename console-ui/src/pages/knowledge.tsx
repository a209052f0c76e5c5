import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { api, type Doc, type Hit } from "../api";
import { useDo } from "../components/actions";
import { PageTabs } from "../components/aria";
import { Card, Drop, Empty, Field, Loading, Page, Pick, Status, Trouble, useWrong } from "../components/base";
import { Dialog, Sure } from "../components/dialog";
import { Table } from "../components/table";
import { filled } from "../messages";
import { useChosen, useKept } from "../settings";
import { Evaluation } from "./evaluation";
import { SegmentImport } from "./segment-import";

export const Knowledge = () => {
  const { t, number, day } = useChosen();
  const navigate = useNavigate();
  const datasets = useQuery({ queryKey: ["datasets"], queryFn: api.datasets });
  const [name, setName] = useState("");
  const make = useDo(() => api.makeDataset(name), ["datasets"]);
  return (
    <Page title={t.knowledge} text={t.knowledgeText}>
      <Trouble of={[datasets]} />
      <form
        className="row"
        onSubmit={(event) => {
          event.preventDefault();
          void make.run().then((created) => {
            if (created) void navigate({ to: "/knowledge/$id", params: { id: created.id } });
          });
        }}
      >
        <Field label={t.newDataset}>
          <input required maxLength={40} value={name} onChange={(event) => setName(event.target.value)} />
        </Field>
        <button type="submit" className="primary" disabled={make.isBusy}>
          {t.make}
        </button>
      </form>
      {datasets.data && !datasets.data.length && (
        <Empty title={t.noDatasets}>
          <p>{t.noDatasetsText}</p>
        </Empty>
      )}
      <ul className="grid">
        {(datasets.data ?? []).map((dataset) => (
          <li className="card" key={dataset.id}>
            <h2>
              <Link to="/knowledge/$id" params={{ id: dataset.id }}>
                {dataset.name}
              </Link>
            </h2>
            {dataset.description && <p>{dataset.description}</p>}
            <p className="soft small">
              {filled(t.countDocuments, { count: number(dataset.document_count) })} ·{" "}
              {filled(t.countWords, { count: number(dataset.word_count) })} · {day(dataset.created_at)}
            </p>
          </li>
        ))}
      </ul>
    </Page>
  );
};

export const DatasetPage = () => {
  const { t } = useChosen();
  const { id } = useParams({ strict: false }) as { id: string };
  const navigate = useNavigate();
  const dataset = useQuery({ queryKey: ["datasets", id], queryFn: () => api.dataset(id) });
  const remove = useDo(() => api.removeDataset(id), ["datasets"], t.removed);
  return (
    <Page
      title={dataset.data?.name ?? t.dataset}
      text={dataset.data?.embedding_model ?? undefined}
      actions={
        <Sure
          label={t.remove}
          question={filled(t.sureRemove, { name: dataset.data?.name ?? "" })}
          onSure={() => remove.run().then(() => navigate({ to: "/knowledge" }))}
        />
      }
    >
      <p>
        <Link to="/knowledge">← {t.knowledge}</Link>
      </p>
      <Trouble of={[dataset]} />
      {dataset.data && (
        <PageTabs
          label={dataset.data.name}
          tabs={[
            { id: "documents", title: t.documents, body: () => <Documents id={id} /> },
            { id: "ask", title: t.askIt, body: () => <Ask id={id} /> },
            { id: "test", title: t.retrievalTest, body: () => <Retrieval id={id} /> },
            { id: "evaluate", title: t.evaluation, body: () => <Evaluation id={id} /> },
          ]}
        />
      )}
    </Page>
  );
};

const isBusy = (document: Doc) => !["completed", "error", "paused"].includes(document.indexing_status);

interface SplitRule {
  mode: string;
  // A line break is written as a backslash and an n.
  separator: string;
  size: number;
  overlap: number;
}
const DEFAULT_RULE: SplitRule = { mode: "automatic", separator: "\\n\\n", size: 500, overlap: 50 };

// The rule as the knowledge API has it.
const processRule = (rule: SplitRule) => {
  // As the API and the command line split by default.
  if (rule.mode === "automatic") return { mode: "structure" };
  const segmentation = {
    separator: rule.separator.replaceAll("\\n", "\n"),
    max_tokens: rule.size,
    chunk_overlap: rule.overlap,
  };
  return { mode: "custom", rules: { pre_processing_rules: [], segmentation } };
};

const Documents = ({ id }: { id: string }) => {
  const { t } = useChosen();
  const [openDocument, setOpenDocument] = useState<Doc | null>(null);
  const documents = useQuery({
    queryKey: ["documents", id],
    queryFn: () => api.documents(id),
    refetchInterval: (query) => (query.state.data?.some(isBusy) ? 1000 : false),
  });
  return (
    <>
      <AddDocuments id={id} />
      <Trouble of={[documents]} />
      {documents.data && !documents.data.length && <Empty title={t.noDocuments} />}
      {(documents.data?.length ?? 0) > 0 && (
        <DocumentTable id={id} documents={documents.data!} onOpen={setOpenDocument} />
      )}
      {openDocument && <Segments id={id} doc={openDocument} onClose={() => setOpenDocument(null)} />}
    </>
  );
};

const AddDocuments = ({ id }: { id: string }) => {
  const { t } = useChosen();
  const errorText = useWrong();
  const client = useQueryClient();
  const [rule, setRule] = useKept("knowledge.rule", DEFAULT_RULE);
  const [troubles, setTroubles] = useState<string[]>([]);
  const upload = async (files: File[]) => {
    setTroubles([]);
    for (const file of files) {
      await api
        .upload(id, file, processRule(rule))
        .catch((error: unknown) => setTroubles((all) => [...all, `${file.name}: ${errorText(error)}`]));
      await client.invalidateQueries({ queryKey: ["documents", id] });
    }
  };
  return (
    <Card title={t.addDocuments}>
      <Drop
        label={t.dropDocuments}
        accept=".txt,.md,.markdown,.mdx,.pdf,.html,.htm,.xlsx,.xls,.docx,.csv,.pptx,.eml,.epub,.json,.xml"
        onFiles={(files) => void upload(files)}
      />
      {troubles.map((trouble) => (
        <p className="wrong" role="alert" key={trouble}>
          {trouble}
        </p>
      ))}
      <details>
        <summary>{t.splitting}</summary>
        <RuleForm rule={rule} onChange={setRule} />
        <Preview rule={processRule(rule)} />
      </details>
    </Card>
  );
};

const RuleForm = ({ rule, onChange }: { rule: SplitRule; onChange: (rule: SplitRule) => void }) => {
  const { t } = useChosen();
  return (
    <div className="fields">
      <Pick
        label={t.splitMode}
        value={rule.mode}
        onChange={(mode) => onChange({ ...rule, mode })}
        options={[
          ["automatic", t.automatic],
          ["custom", t.ownRule],
        ]}
      />
      {rule.mode === "custom" && (
        <>
          <Field label={t.separator}>
            <input value={rule.separator} onChange={(event) => onChange({ ...rule, separator: event.target.value })} />
          </Field>
          <Field label={t.pieceSize}>
            <input
              type="number"
              min={50}
              max={4000}
              value={rule.size}
              onChange={(event) => onChange({ ...rule, size: Number(event.target.value) })}
            />
          </Field>
          <Field label={t.overlap}>
            <input
              type="number"
              min={0}
              max={1000}
              value={rule.overlap}
              onChange={(event) => onChange({ ...rule, overlap: Number(event.target.value) })}
            />
          </Field>
        </>
      )}
    </div>
  );
};

const DocumentTable = ({
  id,
  documents,
  onOpen,
}: {
  id: string;
  documents: Doc[];
  onOpen: (document: Doc) => void;
}) => {
  const { t, number } = useChosen();
  const remove = useDo((document: string) => api.removeDocument(id, document), ["documents", "datasets"], t.removed);
  return (
    <Table
      caption={t.documents}
      rows={documents}
      id={(row) => row.id}
      columns={[
        {
          title: t.name,
          cell: (row) => (
            <button type="button" className="link" onClick={() => onOpen(row)}>
              {row.name}
            </button>
          ),
        },
        {
          title: t.state,
          cell: (row) => (
            <>
              <Status is={row.indexing_status} />
              {isBusy(row) && <progress aria-label={t.indexing} />}
              {row.error && <p className="wrong">{row.error}</p>}
            </>
          ),
        },
        { title: t.words, cell: (row) => number(row.word_count ?? 0), isNumber: true },
        { title: t.hits, cell: (row) => number(row.hit_count ?? 0), isNumber: true },
        {
          title: t.actions,
          cell: (row) => (
            <Sure
              label={t.remove}
              question={filled(t.sureRemove, { name: row.name })}
              onSure={() => remove.run(row.id)}
            />
          ),
        },
      ]}
    />
  );
};

// What the rule makes of a text, by the server that will split the documents.
const Preview = ({ rule }: { rule: unknown }) => {
  const { t } = useChosen();
  const [text, setText] = useKept("knowledge.preview", t.previewExample);
  const pieces = useQuery({
    queryKey: ["split", rule, text],
    queryFn: () => api.split(text, rule),
    enabled: text.trim() !== "",
    placeholderData: (before) => before,
  });
  return (
    <>
      <Field label={t.previewText}>
        <textarea rows={4} value={text} onChange={(event) => setText(event.target.value)} />
      </Field>
      <Trouble of={[pieces]} />
      {pieces.data && <p className="soft">{filled(t.pieces, { count: pieces.data.total })}</p>}
      <ol className="pieces">
        {pieces.data?.data.slice(0, 20).map((piece) => (
          <li key={piece.start}>
            {piece.text}{" "}
            <span className="soft small">
              {piece.start}–{piece.stop}
            </span>
          </li>
        ))}
      </ol>
    </>
  );
};

const Segments = ({ id, doc, onClose }: { id: string; doc: Doc; onClose: () => void }) => {
  const { t, number } = useChosen();
  const segments = useQuery({ queryKey: ["segments", doc.id], queryFn: () => api.segments(id, doc.id) });
  return (
    <Dialog title={doc.name} isOpen onClose={onClose} isWide>
      <SegmentImport id={id} doc={doc.id} />
      <Trouble of={[segments]} />
      <Loading of={[segments]} />
      {segments.data && !segments.data.length && <Empty title={t.noSegments} />}
      {(segments.data ?? []).map((segment) => (
        <article className="card" key={segment.id}>
          <p className="soft small">
            {segment.position} · {filled(t.countWords, { count: number(segment.word_count) })} ·{" "}
            {filled(t.countHits, { count: number(segment.hit_count ?? 0) })}
          </p>
          <p className="pre">{segment.content}</p>
          {segment.answer && (
            <p className="pre">
              <strong>{t.answer}:</strong> {segment.answer}
            </p>
          )}
        </article>
      ))}
    </Dialog>
  );
};

const Ask = ({ id }: { id: string }) => {
  const { t, number } = useChosen();
  const [query, setQuery] = useKept(`knowledge.ask.${id}`, "");
  const go = useDo(() => api.askDataset(id, query));
  return (
    <>
      <form
        className="row grow"
        onSubmit={(event) => {
          event.preventDefault();
          void go.run();
        }}
      >
        <Field label={t.question}>
          <input required value={query} onChange={(event) => setQuery(event.target.value)} />
        </Field>
        <button type="submit" className="primary" disabled={go.isBusy}>
          {go.isBusy ? t.thinkingNow : t.askIt}
        </button>
      </form>
      {go.data && (
        <>
          <blockquote role="status">{go.data.text || t.notFoundThere}</blockquote>
          {go.data.citations.map((citation) => (
            <article className="card" key={citation.number}>
              <p className="soft small">
                [{citation.number}] {citation.document_name} · {number(citation.score, 3)}
              </p>
              <p className="pre">{citation.text}</p>
            </article>
          ))}
        </>
      )}
    </>
  );
};

const METHODS = ["hybrid_search", "semantic_search", "full_text_search"] as const;

// The same question asked in several ways, beside each other.
const Retrieval = ({ id }: { id: string }) => {
  const { t, number, span } = useChosen();
  const [query, setQuery] = useKept(`knowledge.test.${id}`, "");
  const [top, setTop] = useState(5);
  const [rerank, setRerank] = useState(false);
  const go = useDo(() =>
    Promise.all(
      METHODS.map(async (method) => {
        const began = performance.now();
        const hits = await api.retrieve(id, query, {
          search_method: method,
          top_k: top,
          reranking_enable: rerank,
          score_threshold_enabled: false,
        });
        return { method, hits, seconds: (performance.now() - began) / 1000 };
      }),
    ),
  );
  return (
    <>
      <form
        className="row grow"
        onSubmit={(event) => {
          event.preventDefault();
          void go.run();
        }}
      >
        <Field label={t.question}>
          <input required value={query} onChange={(event) => setQuery(event.target.value)} />
        </Field>
        <Field label={t.topK}>
          <input
            className="short"
            type="number"
            min={1}
            max={50}
            value={top}
            onChange={(event) => setTop(Number(event.target.value))}
          />
        </Field>
        <label className="check">
          <input type="checkbox" checked={rerank} onChange={(event) => setRerank(event.target.checked)} /> {t.rerank}
        </label>
        <button type="submit" className="primary" disabled={go.isBusy}>
          {t.find}
        </button>
      </form>
      {go.data && (
        <div className="panes">
          {go.data.map((result) => (
            <Card key={result.method} title={t.methods[result.method]}>
              <p className="soft small">{span(result.seconds)}</p>
              {!result.hits.length && <p className="soft">{t.nothingFound}</p>}
              <ol>
                {result.hits.map((hit: Hit) => (
                  <li key={hit.segment.id}>
                    <p>
                      <strong>{hit.score === null ? "" : number(hit.score, 4)}</strong>{" "}
                      <span className="soft">{hit.segment.document.name}</span>
                    </p>
                    <p className="pre small">{hit.segment.content.slice(0, 400)}</p>
                  </li>
                ))}
              </ol>
            </Card>
          ))}
        </div>
      )}
    </>
  );
};
