import { useQueries, useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useMemo, useRef, useState } from "react";
import { api, type RequestFilter, type Shape } from "../api";
import { useDo } from "../components/actions";
import { Switch } from "../components/aria";
import { Card, Copied, Empty, Field, Json, Page, Pick, Status, Trouble } from "../components/base";
import { Figure } from "../components/figure";
import { ModelPick } from "../components/models";
import { Table } from "../components/table";
import { filled } from "../messages";
import { useMay } from "../permissions";
import { useChosen } from "../settings";

const TEXT_FILTERS = ["id", "status", "provider", "model", "user", "key", "credential"] as const;
const PAGE = 200;
const HEIGHT = 40;
const OUTCOMES = ["served", "failed", "cancelled", "refused"] as const;
const FILTERS = [
  "id",
  "outcome",
  "status",
  "provider",
  "model",
  "type",
  "user",
  "key",
  "credential",
  "unauthenticated",
] as const;

type Row = Shape<"RequestRow">;

const now = () => Math.floor(Date.now() / 1000);

// The filters that the address names.
const useFilter = () => {
  const navigate = useNavigate();
  const search = useSearch({ strict: false }) as RequestFilter;
  const filter = useMemo(
    () => Object.fromEntries(FILTERS.map((name) => [name, search[name]]).filter(([, value]) => value)) as RequestFilter,
    [search],
  );
  const put = (change: Record<string, unknown>) =>
    void navigate({ to: "/requests", search: { ...search, ...change } as never, replace: true });
  const clear = () => void navigate({ to: "/requests", search: {} as never });
  return { search, filter, put, clear };
};
type FilterControl = ReturnType<typeof useFilter>;

// As many rows as there are records, of which only those that can be seen are fetched.
const useRows = (query: RequestFilter, isLive: boolean) => {
  const box = useRef<HTMLDivElement>(null);
  const firstPage = useQuery({
    queryKey: ["requests", query, 0],
    queryFn: () => api.requests({ ...query, limit: PAGE, offset: 0 }),
    placeholderData: (before) => before,
  });
  const rows = useVirtualizer({
    count: firstPage.data?.total ?? 0,
    getScrollElement: () => box.current,
    estimateSize: () => HEIGHT,
    overscan: 12,
  });
  const visible = rows.getVirtualItems();
  const first = Math.floor((visible[0]?.index ?? 0) / PAGE);
  const last = Math.floor((visible.at(-1)?.index ?? 0) / PAGE);
  const pages = useQueries({
    queries: Array.from({ length: last - first + 1 }, (_, index) => first + index).map((page) => ({
      queryKey: ["requests", query, page],
      queryFn: () => api.requests({ ...query, limit: PAGE, offset: page * PAGE }),
      staleTime: isLive ? 2_000 : Infinity,
      placeholderData: (before: Shape<"RequestListPage"> | undefined) => (page === 0 ? before : undefined),
    })),
  });
  const rowAt = (index: number): Row | undefined => pages[Math.floor(index / PAGE) - first]?.data?.data[index % PAGE];
  return { box, firstPage, height: rows.getTotalSize(), visible, rowAt };
};
type RowsControl = ReturnType<typeof useRows>;

// The list is fixed at the moment it was opened, unless it is to follow what comes.
export const Requests = () => {
  const { t, number } = useChosen();
  const control = useFilter();
  const { search, filter } = control;
  const [isLive, setLive] = useState(true);
  const [openedAt] = useState(() => now() + 1);
  const [fixedAt, setFixedAt] = useState(openedAt);
  const since = search.since ?? openedAt - 30 * 86_400;
  const rows = useRows({ ...filter, since, ...(isLive ? {} : { until: fixedAt }) }, isLive);
  const { firstPage } = rows;
  const total = firstPage.data?.total ?? 0;
  const follow = (is: boolean) => {
    setLive(is);
    if (!is) setFixedAt(now() + 1);
  };
  return (
    <Page
      title={t.requests}
      text={filled(t.countRequests, { count: number(firstPage.data?.calls ?? 0) })}
      actions={<Switch label={t.live} isOn={isLive} onChange={follow} />}
    >
      <Filters control={control} />
      <Trouble of={[firstPage]} />
      {firstPage.data && total === 0 ? (
        <Empty title={t.noRequests}>
          <Link to="/playground">{t.stepChat}</Link>
        </Empty>
      ) : (
        <Rows rows={rows} total={total} />
      )}
    </Page>
  );
};

const Filters = ({ control }: { control: FilterControl }) => {
  const { t } = useChosen();
  const { isOperator } = useMay();
  const { search, put, clear } = control;
  return (
    <form className="row" onSubmit={(event) => event.preventDefault()}>
      <Pick
        label={t.outcome}
        value={search.outcome ?? ""}
        onChange={(outcome) => put({ outcome: outcome || undefined })}
        options={[["", t.all], ...OUTCOMES.map((outcome) => [outcome, t.outcomes[outcome]] as const)]}
      />
      {TEXT_FILTERS.map((name) => (
        <Field key={name} label={t.filters[name]}>
          <input
            className="short"
            value={String(search[name] ?? "")}
            onChange={(event) => put({ [name]: event.target.value || undefined })}
          />
        </Field>
      ))}
      <Pick
        label={t.type}
        value={search.type ?? ""}
        onChange={(type) => put({ type: type || undefined })}
        options={[["", t.all], ...Object.entries(t.types)]}
      />
      {isOperator && (
        <Switch
          label={t.withoutValidKey}
          isOn={String(search.unauthenticated) === "true"}
          onChange={(is) => put({ unauthenticated: is || undefined })}
        />
      )}
      <button type="button" onClick={clear}>
        {t.clearFilters}
      </button>
    </form>
  );
};

const Rows = ({ rows, total }: { rows: RowsControl; total: number }) => {
  const { t } = useChosen();
  return (
    <div className="rows" role="table" aria-label={t.requests} aria-rowcount={total + 1}>
      <div className="line header" role="row" aria-rowindex={1}>
        {[t.when, t.model, t.status, t.cost, t.tokens, t.took, t.details].map((title) => (
          <span role="columnheader" key={title}>
            {title}
          </span>
        ))}
      </div>
      <div className="window" ref={rows.box} tabIndex={0} role="rowgroup" aria-label={t.requests}>
        <div style={{ height: rows.height }}>
          {rows.visible.map((item) => (
            <div
              key={item.key}
              className="line"
              role="row"
              aria-rowindex={item.index + 2}
              style={{ transform: `translateY(${item.start}px)` }}
            >
              <Cells row={rows.rowAt(item.index)} />
            </div>
          ))}
        </div>
      </div>
    </div>
  );
};

const Cells = ({ row }: { row: Row | undefined }) => {
  const { t, number, money, span, time } = useChosen();
  if (!row)
    return (
      <span role="cell" className="soft">
        …
      </span>
    );
  return (
    <>
      <span role="cell">
        {row.is_counting ? (
          time(row.created_at)
        ) : (
          <Link to="/requests/$id" params={{ id: row.id }}>
            {time(row.created_at)}
          </Link>
        )}
        {row.attempts > 1 && (
          <small className="soft"> {filled(t.countAttempts, { count: number(row.attempts) })}</small>
        )}
        {row.is_counting && <small className="soft"> {filled(t.countAlike, { count: number(row.calls) })}</small>}
      </span>
      <span role="cell">{[row.provider, row.model].filter(Boolean).join("/") || "–"}</span>
      <span role="cell">
        <Status is={row.outcome === "served" ? row.status : row.outcome} />
      </span>
      <span role="cell" className="number">
        {money(row.cost, row.currency)}
      </span>
      <span role="cell" className="number">
        {number(row.prompt_tokens)} / {number(row.completion_tokens)}
      </span>
      <span role="cell" className="number">
        {span(row.latency)}
      </span>
      <span role="cell" title={row.message}>
        {row.attempts ? row.credential || "–" : [row.http_status, row.status].filter(Boolean).join(" ")}
      </span>
    </>
  );
};

type CallDetail = Awaited<ReturnType<typeof api.call>>;
type Attempt = NonNullable<CallDetail["attempts"]>[number];

// When the first attempt started, in seconds since 1970, and how long all of them took, in milliseconds.
const timeframe = (attempts: Attempt[]) => {
  const startedAt = Math.min(...attempts.map((attempt) => attempt.started_at));
  const ends = attempts.map((attempt) => (attempt.started_at - startedAt) * 1000 + attempt.ms);
  return { startedAt, totalMs: Math.max(...ends, 1) };
};

export const Call = () => {
  const { t } = useChosen();
  const { may } = useMay();
  const { id } = useParams({ strict: false }) as { id: string };
  const call = useQuery({ queryKey: ["call", id], queryFn: () => api.call(id), retry: 3, retryDelay: 700 });
  const detail = call.data;
  const isRecorded = detail && detail.request !== undefined && detail.request !== null;
  return (
    <Page title={t.oneRequest} text={id} actions={<Copied text={id} label={t.copyId} />}>
      <p>
        <Link to="/requests">← {t.requests}</Link>
      </p>
      <Trouble of={[call]} />
      {detail && (
        <>
          <CallFigures detail={detail} />
          {detail.refusal && <Refusal refusal={detail.refusal} />}
          {(detail.decisions ?? []).length > 0 && <Decisions decisions={detail.decisions ?? []} />}
          <Attempts attempts={detail.attempts ?? []} />
          <Bodies detail={detail} />
          {isRecorded && detail.type === "llm" && may("developer") && <Replay id={id} />}
        </>
      )}
    </Page>
  );
};

const CallFigures = ({ detail }: { detail: CallDetail }) => {
  const { t, money, span } = useChosen();
  const attempts = detail.attempts ?? [];
  const cost = attempts.reduce((sum, attempt) => sum + Number(attempt.cost ?? 0), 0);
  return (
    <dl className="figures">
      <div>
        <dt>{t.askedFor}</dt>
        <dd className="text">{detail.asked_for || "–"}</dd>
      </div>
      <Figure label={t.status} value={<Status is={detail.refusal?.outcome ?? detail.status ?? ""} />} />
      {attempts.length > 0 && <Figure label={t.took} value={span((detail.ms || timeframe(attempts).totalMs) / 1000)} />}
      <Figure label={t.cost} value={money(cost, attempts[0]?.currency ?? "USD")} />
    </dl>
  );
};

// Why the request was answered without a call of a provider.
const Refusal = ({ refusal }: { refusal: Shape<"Refusal"> }) => {
  const { t, time } = useChosen();
  const facts: [string, string][] = [
    [t.when, time(refusal.created_at)],
    [t.status, `${refusal.status} ${refusal.code}`],
    [t.endpoint, refusal.route],
    [t.filters.key, refusal.key],
    [t.keyFingerprint, refusal.key_fingerprint],
    [t.filters.user, refusal.user ?? ""],
  ];
  return (
    <Card title={t.outcomes[refusal.outcome as "refused"]}>
      {refusal.message && <p className="wrong">{refusal.message}</p>}
      <dl className="figures">
        {facts
          .filter(([, value]) => value)
          .map(([label, value]) => (
            <div key={label}>
              <dt>{label}</dt>
              <dd className="text">{value}</dd>
            </div>
          ))}
      </dl>
    </Card>
  );
};

// Why the request went where it went.
const Decisions = ({ decisions }: { decisions: NonNullable<CallDetail["decisions"]> }) => {
  const { t, number } = useChosen();
  const textOf = (value: unknown) => (typeof value === "object" ? JSON.stringify(value) : String(value));
  return (
    <Card title={t.whyThere}>
      <ol className="story">
        {decisions.map((decision, index) => {
          const { what, ms, at, ...details } = decision as Record<string, unknown>;
          const offset = ms ?? at;
          return (
            <li key={index}>
              <strong>{(t.decisions as Record<string, string>)[String(what)] ?? String(what)}</strong>{" "}
              {offset !== undefined && <span className="soft">{number(Number(offset), 1)} ms</span>}{" "}
              <span>
                {Object.entries(details)
                  .map(([name, value]) => `${name}: ${textOf(value)}`)
                  .join(" · ")}
              </span>
            </li>
          );
        })}
      </ol>
    </Card>
  );
};

const Attempts = ({ attempts }: { attempts: Attempt[] }) => {
  const { t, span } = useChosen();
  const frame = timeframe(attempts);
  return (
    <Card title={t.attempts}>
      {!attempts.length && <p className="soft">{t.noAttempts}</p>}
      <ul className="timeline">
        {attempts.map((attempt) => (
          <li key={attempt.attempt}>
            <div className="row">
              <strong>
                {attempt.attempt}. {attempt.model}
              </strong>{" "}
              <span className="soft">{attempt.credential}</span> <Status is={attempt.status} />{" "}
              <span className="soft">{span(attempt.ms / 1000)}</span>
            </div>
            <AttemptBar attempt={attempt} {...frame} />
          </li>
        ))}
      </ul>
      {attempts.length > 0 && <AttemptTable attempts={attempts} />}
    </Card>
  );
};

// The width of the drawing is the time that all attempts took.
const BAR_WIDTH = 1000;

const AttemptBar = ({ attempt, startedAt, totalMs }: { attempt: Attempt } & ReturnType<typeof timeframe>) => {
  const { t, span } = useChosen();
  const offset = attempt.started_at - startedAt;
  const widthOf = (ms: number) => (ms / totalMs) * BAR_WIDTH;
  const isGood = attempt.status === "ok" || attempt.status === "cached";
  return (
    <svg
      viewBox={`0 0 ${BAR_WIDTH} 14`}
      preserveAspectRatio="none"
      role="img"
      aria-label={filled(t.attemptAt, { begin: span(offset), span: span(attempt.ms / 1000) })}
    >
      <rect className="back" x="0" y="5" width={BAR_WIDTH} height="4" />
      <rect
        className={isGood ? "good" : "bad"}
        x={widthOf(offset * 1000)}
        y="1"
        width={Math.max(3, widthOf(attempt.ms))}
        height="12"
      />
      {attempt.first_chunk_ms !== null && (
        <rect className="mark" x={widthOf(offset * 1000 + attempt.first_chunk_ms)} y="0" width="4" height="14" />
      )}
    </svg>
  );
};

const AttemptTable = ({ attempts }: { attempts: Attempt[] }) => {
  const { t, money, number, span } = useChosen();
  const counters = t.counters as Record<string, string>;
  return (
    <Table
      caption={t.attempts}
      rows={attempts}
      id={(row) => String(row.attempt)}
      columns={[
        { title: "#", cell: (row) => row.attempt },
        { title: t.model, cell: (row) => row.model },
        { title: t.tokensIn, cell: (row) => number(row.prompt_tokens), isNumber: true },
        { title: t.tokensOut, cell: (row) => number(row.completion_tokens), isNumber: true },
        { title: t.cost, cell: (row) => money(row.cost, row.currency), isNumber: true },
        {
          title: t.firstChunk,
          cell: (row) => (row.first_chunk_ms === null ? "" : span(row.first_chunk_ms / 1000)),
          isNumber: true,
        },
        { title: t.countedBy, cell: (row) => counters[row.counted_by] ?? row.counted_by },
      ]}
    />
  );
};

const Bodies = ({ detail }: { detail: CallDetail }) => {
  const { t } = useChosen();
  const { request, answer } = detail;
  if (request === undefined || request === null)
    return (
      <Card title={t.bodies}>
        <p className="soft">{t.notRecorded}</p>
      </Card>
    );
  return (
    <>
      <Card title={t.sentRequest}>
        <Json value={request} />
      </Card>
      {answer !== null && answer !== undefined && (
        <Card title={t.answered}>
          <Json value={answer} />
        </Card>
      )}
    </>
  );
};

const Replay = ({ id }: { id: string }) => {
  const { t, money, number, span } = useChosen();
  const [model, setModel] = useState("default");
  const again = useDo((other: string) => api.replay(id, other), ["usage"]);
  return (
    <Card title={t.replay}>
      <form
        className="row"
        onSubmit={(event) => {
          event.preventDefault();
          void again.run(model);
        }}
      >
        <ModelPick type="llm" value={model} onChange={setModel} />
        <button type="submit" className="primary" disabled={again.isBusy}>
          {t.replayWith}
        </button>
      </form>
      {again.data && (
        <>
          <blockquote>{again.data.text}</blockquote>
          {again.data.tool_calls.length > 0 && <Json value={again.data.tool_calls} />}
          <p className="soft small">
            {again.data.model} · {span(again.data.ms / 1000)} ·{" "}
            {filled(t.tokensInOut, { in: number(again.data.prompt_tokens), out: number(again.data.completion_tokens) })}{" "}
            · {money(again.data.cost, again.data.currency)}
          </p>
        </>
      )}
    </Card>
  );
};
