import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useRef, useState } from "react";
import { api, events, type Shape } from "../api";
import { useDo } from "../components/actions";
import { Card, Empty, Field, Trouble, useWrong } from "../components/base";
import { Sure } from "../components/dialog";
import { Table } from "../components/table";
import { filled } from "../messages";
import { useChosen, useKept } from "../settings";

const WAYS = ["full_text", "semantic", "hybrid", "hybrid_ranks", "reranked"] as const;

type EvaluationEvent =
  | { event: "progress"; done: number; of: number }
  | { event: "done"; evaluation: Shape<"EvaluationView"> };

const asLines = (questions: Shape<"QuestionView">[]) =>
  questions.map((question) => `${question.question} => ${question.documents.join(" | ")}`).join("\n");
// The server reads the lines, and names those that it cannot read.
const countLines = (text: string) => text.split("\n").filter((line) => line.trim()).length;

// Questions whose documents are known, asked in each way. What came of it is kept, to be compared with the next time.
export const Evaluation = ({ id }: { id: string }) => {
  const { t } = useChosen();
  const errorText = useWrong();
  const client = useQueryClient();
  const navigate = useNavigate();
  const { evaluation = "" } = useSearch({ strict: false }) as { evaluation?: string };
  const [text, setText] = useKept(`knowledge.evaluate.${id}`, "");
  const [ways, setWays] = useKept<string[]>("knowledge.ways", ["full_text", "semantic", "hybrid"]);
  const [progress, setProgress] = useState<{ done: number; of: number } | null>(null);
  const [trouble, setTrouble] = useState("");
  const running = useRef<AbortController | null>(null);
  const count = countLines(text);
  const show = (evaluation: string) =>
    void navigate({
      to: "/knowledge/$id",
      params: { id },
      search: { tab: "evaluate", ...(evaluation ? { evaluation: evaluation } : {}) } as never,
      replace: true,
    });
  const write = useDo(() => api.writeQuestions(id));
  const go = async () => {
    if (progress) return running.current?.abort();
    setTrouble("");
    setProgress({ done: 0, of: count });
    running.current = new AbortController();
    try {
      const path = `/admin/v1/evaluations/${encodeURIComponent(id)}`;
      const body = JSON.stringify({ lines: text, ways: WAYS.filter((way) => ways.includes(way)) });
      for await (const event of events<EvaluationEvent>(path, {
        method: "POST",
        body,
        signal: running.current.signal,
      })) {
        if (event.event === "progress") setProgress({ done: event.done, of: event.of });
        else show(event.evaluation.id);
      }
    } catch (error) {
      if ((error as Error).name !== "AbortError") setTrouble(errorText(error));
    } finally {
      setProgress(null);
      void client.invalidateQueries({ queryKey: ["evaluations", id] });
    }
  };
  return (
    <>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void go();
        }}
      >
        <Field label={t.evaluationCases} help={t.evaluationHelp}>
          <textarea
            rows={6}
            required
            value={text}
            onChange={(event) => setText(event.target.value)}
            placeholder={t.evaluationExample}
          />
        </Field>
        <fieldset>
          <legend>{t.waysToSearch}</legend>
          <div className="row">
            {WAYS.map((way) => (
              <label className="check" key={way}>
                <input
                  type="checkbox"
                  checked={ways.includes(way)}
                  onChange={(event) =>
                    setWays(event.target.checked ? [...ways, way] : ways.filter((chosenWay) => chosenWay !== way))
                  }
                />{" "}
                {t.ways[way]}
              </label>
            ))}
          </div>
        </fieldset>
        <div className="row">
          <button type="submit" className="primary" disabled={!progress && (!count || !ways.length)}>
            {progress ? t.stop : t.run}
          </button>
          <button
            type="button"
            disabled={write.isBusy || progress !== null}
            onClick={() =>
              void write.run().then((written) => {
                if (written?.length) setText([text.trim(), asLines(written)].filter(Boolean).join("\n"));
              })
            }
          >
            {write.isBusy ? t.writing : t.writeQuestions}
          </button>
        </div>
        <div role="status">{progress && <p>{filled(t.askedOf, { done: progress.done, of: progress.of })}</p>}</div>
      </form>
      {trouble && (
        <p className="wrong" role="alert">
          {trouble}
        </p>
      )}
      <Past id={id} at={evaluation} onShow={show} />
      {evaluation && <EvaluationDetails id={id} evaluation={evaluation} />}
    </>
  );
};

const useNumbers = () => {
  const { t, number } = useChosen();
  const share = (value: number) => `${number(value * 100, 0)} %`;
  return [
    {
      title: t.foundFirst,
      isNumber: true,
      cell: ({ scores }: { scores: Shape<"ScoresView"> }) => share(scores.hit_1),
    },
    {
      title: t.foundInTen,
      isNumber: true,
      cell: ({ scores }: { scores: Shape<"ScoresView"> }) => share(scores.recall),
    },
    {
      title: t.reciprocalRank,
      isNumber: true,
      cell: ({ scores }: { scores: Shape<"ScoresView"> }) => number(scores.mrr, 3),
    },
    { title: "NDCG", isNumber: true, cell: ({ scores }: { scores: Shape<"ScoresView"> }) => number(scores.ndcg, 3) },
    {
      title: t.perQuestion,
      isNumber: true,
      cell: ({ scores }: { scores: Shape<"ScoresView"> }) => `${number(scores.milliseconds, 1)} ms`,
    },
  ];
};

const Past = ({ id, at, onShow }: { id: string; at: string; onShow: (evaluation: string) => void }) => {
  const { t, time, number } = useChosen();
  const numbers = useNumbers();
  const all = useQuery({ queryKey: ["evaluations", id], queryFn: () => api.evaluations(id) });
  const remove = useDo((evaluation: string) => api.removeEvaluation(id, evaluation), ["evaluations"], t.removed);
  const rows = (all.data ?? []).flatMap((evaluation) => evaluation.scores.map((scores) => ({ evaluation, scores })));
  return (
    <Card title={t.evaluations}>
      <Trouble of={[all]} />
      {all.data && !rows.length && <Empty title={t.noEvaluations} />}
      {rows.length > 0 && (
        <Table
          caption={t.evaluations}
          rows={rows}
          id={({ evaluation, scores }) => `${evaluation.id} ${scores.settings}`}
          columns={[
            {
              title: t.when,
              cell: ({ evaluation }) => (
                <button
                  type="button"
                  className="link"
                  aria-current={evaluation.id === at ? "true" : undefined}
                  onClick={() => onShow(evaluation.id)}
                >
                  {time(evaluation.at)}
                </button>
              ),
            },
            {
              title: t.method,
              cell: ({ scores }) => (t.ways as Record<string, string>)[scores.settings] ?? scores.settings,
            },
            { title: t.questions, isNumber: true, cell: ({ scores }) => number(scores.questions) },
            ...numbers,
            {
              title: t.actions,
              cell: ({ evaluation, scores }) =>
                evaluation.scores[0]?.settings === scores.settings && (
                  <Sure
                    label={t.remove}
                    question={filled(t.sureRemove, { name: time(evaluation.at) })}
                    onSure={() => remove.run(evaluation.id).then(() => (evaluation.id === at ? onShow("") : undefined))}
                  />
                ),
            },
          ]}
        />
      )}
    </Card>
  );
};

const EvaluationDetails = ({ id, evaluation }: { id: string; evaluation: string }) => {
  const { t, time } = useChosen();
  const details = useQuery({
    queryKey: ["evaluations", id, evaluation],
    queryFn: () => api.evaluation(id, evaluation),
    retry: false,
  });
  if (!details.data) return <Trouble of={[details]} />;
  return (
    <Card title={filled(t.evaluationOf, { when: time(details.data.at) })}>
      {details.data.embedding_model && <p className="soft">{details.data.embedding_model}</p>}
      <Table
        caption={t.questions}
        rows={details.data.outcomes}
        id={(row) => `${row.question} ${row.documents.join()}`}
        columns={[
          { title: t.question, cell: (row) => row.question },
          { title: t.document, cell: (row) => row.documents.join(", ") },
          ...details.data.scores.map(({ settings }) => ({
            title: (t.ways as Record<string, string>)[settings] ?? settings,
            isNumber: true,
            cell: (row: Shape<"OutcomeView">) => row.places[settings] || <span className="wrong">{t.notInTen}</span>,
          })),
        ]}
      />
    </Card>
  );
};
