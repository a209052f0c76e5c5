import { useQueries, useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useMemo, useRef, useState } from "react";
import { api, type CallFilter, type Shape } from "../api";
import { useDo } from "../components/actions";
import { Switch } from "../components/aria";
import { Card, Copied, Empty, Field, Json, Page, Pick, Status, Trouble } from "../components/base";
import { ModelPick } from "../components/models";
import { Table } from "../components/table";
import { filled } from "../messages";
import { useMay } from "../permissions";
import { useChosen } from "../settings";

const PAGE = 200;
const HEIGHT = 40;
const FILTERS = ["status", "provider", "model", "type", "user", "key", "credential"] as const;

// The list is as long as there are attempts; only what can be seen is fetched. It is fixed at the moment it was opened,
// unless it is to follow what comes.
export const Requests = () => {
  const { t, number, money, span, time } = useChosen();
  const navigate = useNavigate();
  const search = useSearch({ strict: false }) as CallFilter;
  const [isLive, setLive] = useState(true);
  const [opened] = useState(() => Math.floor(Date.now() / 1000) + 1);
  const [fixed, setFixed] = useState(opened);
  const filter = useMemo(
    () => Object.fromEntries(FILTERS.map((one) => [one, search[one]]).filter(([, value]) => value)) as CallFilter,
    [search],
  );
  const since = search.since ?? opened - 30 * 86_400;
  const query: CallFilter = { ...filter, since, ...(isLive ? {} : { until: fixed }) };
  const box = useRef<HTMLDivElement>(null);
  const head = useQuery({
    queryKey: ["calls", query, 0],
    queryFn: () => api.calls({ ...query, limit: PAGE, offset: 0 }),
    placeholderData: (before) => before,
  });
  const total = head.data?.total ?? 0;
  const rows = useVirtualizer({
    count: total,
    getScrollElement: () => box.current,
    estimateSize: () => HEIGHT,
    overscan: 12,
  });
  const visible = rows.getVirtualItems();
  const first = Math.floor((visible[0]?.index ?? 0) / PAGE);
  const last = Math.floor((visible.at(-1)?.index ?? 0) / PAGE);
  const pages = useQueries({
    queries: Array.from({ length: last - first + 1 }, (_, at) => first + at).map((page) => ({
      queryKey: ["calls", query, page],
      queryFn: () => api.calls({ ...query, limit: PAGE, offset: page * PAGE }),
      staleTime: isLive ? 2_000 : Infinity,
      placeholderData: (before: Shape<"CallPage"> | undefined) => (page === 0 ? before : undefined),
    })),
  });
  const rowAt = (index: number) => pages[Math.floor(index / PAGE) - first]?.data?.data[index % PAGE];
  const put = (more: Record<string, unknown>) =>
    void navigate({ to: "/requests", search: { ...search, ...more } as never, replace: true });
  const follow = (is: boolean) => {
    setLive(is);
    if (!is) setFixed(Math.floor(Date.now() / 1000) + 1);
  };
  return (
    <Page
      title={t.requests}
      text={filled(t.countAttempts, { count: number(total) })}
      actions={<Switch label={t.live} isOn={isLive} onChange={follow} />}
    >
      <form className="row" onSubmit={(event) => event.preventDefault()}>
        <Pick
          label={t.status}
          value={search.status ?? ""}
          onChange={(status) => put({ status: status || undefined })}
          options={[
            ["", t.all],
            ["failed", t.failedOnly],
            ["ok", "ok"],
            ["cached", t.states.cached],
            ["cancelled", t.states.cancelled],
          ]}
        />
        {FILTERS.filter((one) => one !== "status" && one !== "type").map((one) => (
          <Field key={one} label={t.filters[one as "model"]}>
            <input
              className="short"
              value={String(search[one] ?? "")}
              onChange={(event) => put({ [one]: event.target.value || undefined })}
            />
          </Field>
        ))}
        <Pick
          label={t.type}
          value={search.type ?? ""}
          onChange={(type) => put({ type: type || undefined })}
          options={[["", t.all], ...Object.entries(t.types)]}
        />
        <button type="button" onClick={() => void navigate({ to: "/requests", search: {} as never })}>
          {t.clearFilters}
        </button>
      </form>
      <Trouble of={[head]} />
      {head.data && total === 0 ? (
        <Empty title={t.noRequests}>
          <Link to="/playground">{t.stepChat}</Link>
        </Empty>
      ) : (
        <div className="rows" role="table" aria-label={t.requests} aria-rowcount={total + 1}>
          <div className="line header" role="row" aria-rowindex={1}>
            {[t.when, t.model, t.status, t.cost, t.tokens, t.took, t.credential].map((one) => (
              <span role="columnheader" key={one}>
                {one}
              </span>
            ))}
          </div>
          <div className="window" ref={box} tabIndex={0} role="rowgroup" aria-label={t.requests}>
            <div style={{ height: rows.getTotalSize() }}>
              {visible.map((item) => {
                const one = rowAt(item.index);
                return (
                  <div
                    key={item.key}
                    className="line"
                    role="row"
                    aria-rowindex={item.index + 2}
                    style={{ transform: `translateY(${item.start}px)` }}
                  >
                    {one ? (
                      <>
                        <span role="cell">
                          <Link to="/requests/$id" params={{ id: one.call }}>
                            {time(one.created_at)}
                          </Link>
                          {one.attempt > 1 && (
                            <small className="soft"> {filled(t.attemptNumber, { number: one.attempt })}</small>
                          )}
                        </span>
                        <span role="cell">
                          {one.provider}/{one.model}
                        </span>
                        <span role="cell">
                          <Status is={one.status} />
                        </span>
                        <span role="cell" className="number">
                          {money(one.cost, one.currency)}
                        </span>
                        <span role="cell" className="number">
                          {number(one.prompt_tokens)} / {number(one.completion_tokens)}
                        </span>
                        <span role="cell" className="number">
                          {span(one.latency)}
                        </span>
                        <span role="cell">{one.credential || "–"}</span>
                      </>
                    ) : (
                      <span role="cell" className="soft">
                        …
                      </span>
                    )}
                  </div>
                );
              })}
            </div>
          </div>
        </div>
      )}
    </Page>
  );
};

export const Call = () => {
  const { t, money, number, span } = useChosen();
  const { may } = useMay();
  const { id } = useParams({ strict: false }) as { id: string };
  const call = useQuery({ queryKey: ["call", id], queryFn: () => api.call(id), retry: 3, retryDelay: 700 });
  const it = call.data;
  const attempts = it?.attempts ?? [];
  const began = Math.min(...attempts.map((one) => one.started_at));
  const whole = Math.max(...attempts.map((one) => (one.started_at - began) * 1000 + one.ms), 1);
  return (
    <Page title={t.oneRequest} text={id} actions={<Copied text={id} label={t.copyId} />}>
      <p>
        <Link to="/requests">← {t.requests}</Link>
      </p>
      <Trouble of={[call]} />
      {it && (
        <>
          <dl className="figures">
            <div>
              <dt>{t.askedFor}</dt>
              <dd className="text">{it.asked_for}</dd>
            </div>
            <div>
              <dt>{t.status}</dt>
              <dd>
                <Status is={it.status ?? ""} />
              </dd>
            </div>
            <div>
              <dt>{t.took}</dt>
              <dd>{span((it.ms || whole) / 1000)}</dd>
            </div>
            <div>
              <dt>{t.cost}</dt>
              <dd>
                {money(
                  attempts.reduce((sum, one) => sum + Number(one.cost ?? 0), 0),
                  attempts[0]?.currency ?? "USD",
                )}
              </dd>
            </div>
          </dl>
          <Card title={t.whyThere}>
            <ol className="story">
              {(it.decisions ?? []).map((one, at) => {
                const { what, ms, at: when, ...rest } = one as Record<string, unknown>;
                return (
                  <li key={at}>
                    <strong>{(t.decisions as Record<string, string>)[String(what)] ?? String(what)}</strong>{" "}
                    {(ms ?? when) !== undefined && <span className="soft">{number(Number(ms ?? when), 1)} ms</span>}{" "}
                    <span>
                      {Object.entries(rest)
                        .map(
                          ([name, value]) =>
                            `${name}: ${typeof value === "object" ? JSON.stringify(value) : String(value)}`,
                        )
                        .join(" · ")}
                    </span>
                  </li>
                );
              })}
            </ol>
          </Card>
          <Card title={t.attempts}>
            {!attempts.length && <p className="soft">{t.noAttempts}</p>}
            <ul className="timeline">
              {attempts.map((one) => (
                <li key={one.attempt}>
                  <div className="row">
                    <strong>
                      {one.attempt}. {one.model}
                    </strong>{" "}
                    <span className="soft">{one.credential}</span> <Status is={one.status} />{" "}
                    <span className="soft">{span(one.ms / 1000)}</span>
                  </div>
                  <svg
                    viewBox="0 0 1000 14"
                    preserveAspectRatio="none"
                    role="img"
                    aria-label={filled(t.attemptAt, { begin: span(one.started_at - began), span: span(one.ms / 1000) })}
                  >
                    <rect className="back" x="0" y="5" width="1000" height="4" />
                    <rect
                      className={one.status === "ok" || one.status === "cached" ? "good" : "bad"}
                      x={(((one.started_at - began) * 1000) / whole) * 1000}
                      y="1"
                      width={Math.max(3, (one.ms / whole) * 1000)}
                      height="12"
                    />
                    {one.first_chunk_ms !== null && (
                      <rect
                        className="mark"
                        x={(((one.started_at - began) * 1000 + one.first_chunk_ms) / whole) * 1000}
                        y="0"
                        width="4"
                        height="14"
                      />
                    )}
                  </svg>
                </li>
              ))}
            </ul>
            {attempts.length > 0 && (
              <Table
                caption={t.attempts}
                rows={attempts}
                id={(one) => String(one.attempt)}
                columns={[
                  { title: "#", cell: (one) => one.attempt },
                  { title: t.model, cell: (one) => one.model },
                  { title: t.tokensIn, cell: (one) => number(one.prompt_tokens), isNumber: true },
                  { title: t.tokensOut, cell: (one) => number(one.completion_tokens), isNumber: true },
                  { title: t.cost, cell: (one) => money(one.cost, one.currency), isNumber: true },
                  {
                    title: t.firstChunk,
                    cell: (one) => (one.first_chunk_ms === null ? "" : span(one.first_chunk_ms / 1000)),
                    isNumber: true,
                  },
                  {
                    title: t.countedBy,
                    cell: (one) => (t.counters as Record<string, string>)[one.counted_by] ?? one.counted_by,
                  },
                ]}
              />
            )}
          </Card>
          {it.request === undefined || it.request === null ? (
            <Card title={t.bodies}>
              <p className="soft">{t.notRecorded}</p>
            </Card>
          ) : (
            <>
              <Card title={t.asked}>
                <Json value={it.request} />
              </Card>
              {it.answer !== null && it.answer !== undefined && (
                <Card title={t.answered}>
                  <Json value={it.answer} />
                </Card>
              )}
              {it.type === "llm" && may("developer") && <Replay id={id} />}
            </>
          )}
        </>
      )}
    </Page>
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
