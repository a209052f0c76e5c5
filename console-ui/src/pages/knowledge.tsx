import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { api, type Doc, type Hit } from "../api";
import { useDo } from "../components/actions";
import { PageTabs } from "../components/aria";
import { Card, Drop, Empty, Field, Page, Pick, Status, Trouble, useWrong } from "../components/base";
import { Dialog, Sure } from "../components/dialog";
import { Table } from "../components/table";
import { filled } from "../messages";
import { useChosen, useKept } from "../settings";
import { Evaluation } from "./evaluation";

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
          void make.run().then((made) => {
            if (made) void navigate({ to: "/knowledge/$id", params: { id: made.id } });
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
        {(datasets.data ?? []).map((one) => (
          <li className="card" key={one.id}>
            <h2>
              <Link to="/knowledge/$id" params={{ id: one.id }}>
                {one.name}
              </Link>
            </h2>
            {one.description && <p>{one.description}</p>}
            <p className="soft small">
              {filled(t.countDocuments, { count: number(one.document_count) })} ·{" "}
              {filled(t.countWords, { count: number(one.word_count) })} · {day(one.created_at)}
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

const isBusy = (one: Doc) => !["completed", "error", "paused"].includes(one.indexing_status);

const Documents = ({ id }: { id: string }) => {
  const { t, number } = useChosen();
  const said = useWrong();
  const client = useQueryClient();
  const [rule, setRule] = useKept("knowledge.rule", { mode: "automatic", separator: "\\n\\n", size: 500, overlap: 50 });
  const [troubles, setTroubles] = useState<string[]>([]);
  const [open, setOpen] = useState<Doc | null>(null);
  const documents = useQuery({
    queryKey: ["documents", id],
    queryFn: () => api.documents(id),
    refetchInterval: (query) => (query.state.data?.some(isBusy) ? 1000 : false),
  });
  const remove = useDo((doc: string) => api.removeDocument(id, doc), ["documents", "datasets"], t.removed);
  const wanted =
    rule.mode === "automatic"
      ? { mode: "automatic" }
      : {
          mode: "custom",
          rules: {
            pre_processing_rules: [],
            segmentation: {
              separator: rule.separator.replaceAll("\\n", "\n"),
              max_tokens: rule.size,
              chunk_overlap: rule.overlap,
            },
          },
        };
  const take = async (files: File[]) => {
    setTroubles([]);
    for (const file of files) {
      await api
        .upload(id, file, wanted)
        .catch((error: unknown) => setTroubles((all) => [...all, `${file.name}: ${said(error)}`]));
      await client.invalidateQueries({ queryKey: ["documents", id] });
    }
  };
  return (
    <>
      <Card title={t.addDocuments}>
        <Drop
          label={t.dropDocuments}
          accept=".txt,.md,.markdown,.mdx,.pdf,.html,.htm,.xlsx,.xls,.docx,.csv,.pptx,.eml,.epub,.json,.xml"
          onFiles={(files) => void take(files)}
        />
        {troubles.map((one) => (
          <p className="wrong" role="alert" key={one}>
            {one}
          </p>
        ))}
        <details>
          <summary>{t.splitting}</summary>
          <div className="fields">
            <Pick
              label={t.splitMode}
              value={rule.mode}
              onChange={(mode) => setRule({ ...rule, mode })}
              options={[
                ["automatic", t.automatic],
                ["custom", t.ownRule],
              ]}
            />
            {rule.mode === "custom" && (
              <>
                <Field label={t.separator}>
                  <input
                    value={rule.separator}
                    onChange={(event) => setRule({ ...rule, separator: event.target.value })}
                  />
                </Field>
                <Field label={t.pieceSize}>
                  <input
                    type="number"
                    min={50}
                    max={4000}
                    value={rule.size}
                    onChange={(event) => setRule({ ...rule, size: Number(event.target.value) })}
                  />
                </Field>
                <Field label={t.overlap}>
                  <input
                    type="number"
                    min={0}
                    max={1000}
                    value={rule.overlap}
                    onChange={(event) => setRule({ ...rule, overlap: Number(event.target.value) })}
                  />
                </Field>
              </>
            )}
          </div>
          <Preview rule={wanted} />
        </details>
      </Card>
      <Trouble of={[documents]} />
      {documents.data && !documents.data.length && <Empty title={t.noDocuments} />}
      {(documents.data?.length ?? 0) > 0 && (
        <Table
          caption={t.documents}
          rows={documents.data!}
          id={(one) => one.id}
          columns={[
            {
              title: t.name,
              cell: (one) => (
                <button type="button" className="link" onClick={() => setOpen(one)}>
                  {one.name}
                </button>
              ),
            },
            {
              title: t.state,
              cell: (one) => (
                <>
                  <Status is={one.indexing_status} />
                  {isBusy(one) && <progress aria-label={t.indexing} />}
                  {one.error && <p className="wrong">{one.error}</p>}
                </>
              ),
            },
            { title: t.words, cell: (one) => number(one.word_count ?? 0), isNumber: true },
            { title: t.hits, cell: (one) => number(one.hit_count ?? 0), isNumber: true },
            {
              title: t.actions,
              cell: (one) => (
                <Sure
                  label={t.remove}
                  question={filled(t.sureRemove, { name: one.name })}
                  onSure={() => remove.run(one.id)}
                />
              ),
            },
          ]}
        />
      )}
      {open && <Segments id={id} doc={open} onClose={() => setOpen(null)} />}
    </>
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
        {pieces.data?.data.slice(0, 20).map((one) => (
          <li key={one.start}>
            {one.text}{" "}
            <span className="soft small">
              {one.start}–{one.stop}
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
      <Trouble of={[segments]} />
      {(segments.data ?? []).map((one) => (
        <article className="card" key={one.id}>
          <p className="soft small">
            {one.position} · {filled(t.countWords, { count: number(one.word_count) })} ·{" "}
            {filled(t.countHits, { count: number(one.hit_count ?? 0) })}
          </p>
          <p className="pre">{one.content}</p>
          {one.answer && (
            <p className="pre">
              <strong>{t.answer}:</strong> {one.answer}
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
          {go.data.citations.map((one) => (
            <article className="card" key={one.number}>
              <p className="soft small">
                [{one.number}] {one.document_name} · {number(one.score, 3)}
              </p>
              <p className="pre">{one.text}</p>
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
          {go.data.map((one) => (
            <Card key={one.method} title={t.methods[one.method]}>
              <p className="soft small">{span(one.seconds)}</p>
              {!one.hits.length && <p className="soft">{t.nothingFound}</p>}
              <ol>
                {one.hits.map((hit: Hit) => (
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
