import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useMemo } from "react";
import { addressed, api, type Shape } from "../api";
import { Card, Empty, Page, Pick, Trouble } from "../components/base";
import { Chart } from "../components/chart";
import { Figure } from "../components/figure";
import { Table } from "../components/table";
import { useChosen, useKept } from "../settings";
import { type CallTotals, NO_CALLS, type UsageRow, usageSeries } from "./usage-series";

const SPANS = { day: 86_400, week: 7 * 86_400, month: 30 * 86_400, quarter: 90 * 86_400 } as const;
const BY = ["provider", "model", "user", "key", "credential", "model_type", "status"] as const;
const MEASURES = {
  cost: (row: UsageRow) => Number(row.cost),
  calls: (row: UsageRow) => row.calls,
  tokens: (row: UsageRow) => row.prompt_tokens + row.completion_tokens,
  failed: (row: UsageRow) => row.failed,
  refused: (row: UsageRow) => row.refused ?? 0,
} as const;
// The filters of the page of requests, by dimension.
const FILTERS = {
  provider: "provider",
  model: "model",
  user: "user",
  key: "key",
  credential: "credential",
  model_type: "type",
  status: "status",
} as const;

interface Choice {
  over: keyof typeof SPANS;
  by: (typeof BY)[number];
  measure: keyof typeof MEASURES;
}

const sum = (rows: UsageRow[], measure: (row: UsageRow) => number) =>
  rows.reduce((total, row) => total + measure(row), 0);

const useUsage = (choice: Choice) => {
  const { t } = useChosen();
  // biome-ignore lint/correctness/useExhaustiveDependencies: the end of the span moves when another span is chosen
  const until = useMemo(() => Math.floor(Date.now() / 1000) + 60, [choice.over]);
  const since = until - SPANS[choice.over];
  const unit = choice.over === "day" ? "hour" : "day";
  const columns = choice.by === "model" ? "provider,model" : choice.by;
  const sums = useQuery({ queryKey: ["usage", choice.by, since], queryFn: () => api.usageReport(columns, since) });
  const over = useQuery({
    queryKey: ["usage", unit, choice.by, since],
    queryFn: () => api.usage(`${unit},${columns}`, since),
  });
  const latency = useQuery({ queryKey: ["latency", since], queryFn: () => api.latency(since, until) });
  const keys = useQuery({ queryKey: ["keys"], queryFn: () => api.all("keys"), retry: false });
  const nameOf = (row: UsageRow) => {
    // Some refused calls named no model that exists.
    if (choice.by === "model") return row.model === "-" ? t.none : `${row.provider}/${row.model}`;
    const name = String(row[choice.by] ?? "-");
    const keyName = choice.by === "key" && keys.data?.find((key) => key.id === name)?.name;
    return keyName || (name === "-" ? t.none : name);
  };
  // biome-ignore lint/correctness/useExhaustiveDependencies: names and spans follow from these four
  const chart = useMemo(
    () => usageSeries(over.data ?? [], { since, until, unit }, nameOf, MEASURES[choice.measure], t.others),
    [over.data, choice, keys.data, t],
  );
  return { since, until, sums, over, latency, nameOf, chart };
};

// The search of the page of requests that shows a row's calls.
const requestsOf = (row: UsageRow, by: Choice["by"], since: number): Record<string, unknown> => {
  const value = row[by];
  return {
    since,
    ...(value && value !== "-" ? { [FILTERS[by]]: value } : {}),
    ...(by === "model" && row.provider !== "-" ? { provider: row.provider } : {}),
  };
};

export const Usage = () => {
  const { t } = useChosen();
  const [choice, setChoice] = useKept<Choice>("usage", { over: "month", by: "model", measure: "cost" });
  const usage = useUsage(choice);
  const { since, sums, over, latency, nameOf } = usage;
  const rows = sums.data?.data ?? [];
  return (
    <Page title={t.usageAndCost} actions={<Exports query={`since=${since}&until=${usage.until}`} />}>
      <Choices choice={choice} onChange={setChoice} />
      <Trouble of={[sums, over, latency]} />
      {sums.data && !rows.length ? (
        <Empty title={t.noUsage}>
          <Link to="/playground">{t.stepChat}</Link>
        </Empty>
      ) : (
        <>
          <Totals
            rows={rows}
            total={(sums.data?.total as CallTotals | undefined) ?? NO_CALLS}
            hasCacheHits={choice.by === "status"}
          />
          <UsageChart choice={choice} chart={usage.chart} currency={rows[0]?.currency ?? "USD"} />
          <Details rows={rows} by={choice.by} since={since} nameOf={nameOf} />
          {(latency.data?.length ?? 0) > 0 && <Latencies rows={latency.data!} since={since} />}
        </>
      )}
    </Page>
  );
};

const Exports = ({ query }: { query: string }) => {
  const { t } = useChosen();
  return (
    <>
      <a className="button" href={addressed(`/admin/v1/usage/rows?format=csv&${query}`)} download="usage.csv">
        {t.exportCsv}
      </a>
      <a className="button" href={addressed(`/admin/v1/usage/rows?format=jsonl&${query}`)} download="usage.jsonl">
        {t.exportJson}
      </a>
    </>
  );
};

const Choices = ({ choice, onChange }: { choice: Choice; onChange: (choice: Choice) => void }) => {
  const { t } = useChosen();
  return (
    <div className="row">
      <Pick
        label={t.timespan}
        value={choice.over}
        onChange={(over) => onChange({ ...choice, over: over as "day" })}
        options={Object.keys(SPANS).map((period) => [period, t.spans[period as "day"]] as const)}
      />
      <Pick
        label={t.groupBy}
        value={choice.by}
        onChange={(by) => onChange({ ...choice, by: by as "model" })}
        options={BY.map((dimension) => [dimension, t.by[dimension]] as const)}
      />
      <Pick
        label={t.measure}
        value={choice.measure}
        onChange={(measure) => onChange({ ...choice, measure: measure as "cost" })}
        options={Object.keys(MEASURES).map((measure) => [measure, t.measures[measure as "cost"]] as const)}
      />
    </div>
  );
};

// Calls are counted once, whatever they are grouped by.
const Totals = ({ rows, total, hasCacheHits }: { rows: UsageRow[]; total: CallTotals; hasCacheHits: boolean }) => {
  const { t, number, money } = useChosen();
  const currencies = [...new Set(rows.map((row) => row.currency))];
  const costIn = (currency: string) =>
    sum(
      rows.filter((row) => row.currency === currency),
      MEASURES.cost,
    );
  const cachedRows = rows.filter((row) => row.status === "cached");
  return (
    <>
      <dl className="figures">
        {currencies.map((currency) => (
          <Figure key={currency} label={t.cost} value={money(costIn(currency), currency)} />
        ))}
        <Figure label={t.callsMade} value={number(total.calls)} />
        <Figure label={t.failed} value={number(total.failed)} />
        <Figure label={t.refused} value={number(total.refused)} />
        <Figure label={t.cancelled} value={number(total.cancelled)} />
        <Figure label={t.tokensIn} value={number(sum(rows, (row) => row.prompt_tokens))} />
        <Figure label={t.tokensOut} value={number(sum(rows, (row) => row.completion_tokens))} />
        <Figure label={t.cachedTokens} value={number(sum(rows, (row) => row.cached_tokens))} />
        {hasCacheHits && <Figure label={t.cacheHits} value={number(sum(cachedRows, MEASURES.calls))} />}
      </dl>
      {sum(rows, (row) => row.unpriced) > 0 && <p className="soft">{t.unpricedText}</p>}
    </>
  );
};

const UsageChart = ({
  choice,
  chart,
  currency,
}: {
  choice: Choice;
  chart: ReturnType<typeof usageSeries>;
  currency: string;
}) => {
  const { t, number, money } = useChosen();
  const title = `${t.measures[choice.measure]} · ${t.by[choice.by]}`;
  const shown = useMemo(
    () => (value: number) => (choice.measure === "cost" ? money(value, currency) : number(value)),
    [choice.measure, currency, money, number],
  );
  return (
    <Card title={title}>
      {chart.series.length > 0 && <Chart label={title} times={chart.times} series={chart.series} shown={shown} />}
    </Card>
  );
};

const Details = ({
  rows,
  by,
  since,
  nameOf,
}: {
  rows: UsageRow[];
  by: Choice["by"];
  since: number;
  nameOf: (row: UsageRow) => string;
}) => {
  const { t, number, money } = useChosen();
  const nameCell = (row: UsageRow) => (
    <Link to="/requests" search={requestsOf(row, by, since) as never}>
      {nameOf(row)}
    </Link>
  );
  const failedCell = (row: UsageRow) =>
    row.failed ? (
      <Link to="/requests" search={{ ...requestsOf(row, by, since), outcome: "failed" } as never}>
        {number(row.failed)}
      </Link>
    ) : (
      0
    );
  const refusedCell = (row: UsageRow) =>
    row.refused ? (
      <Link to="/requests" search={{ ...requestsOf(row, by, since), outcome: "refused" } as never}>
        {number(row.refused)}
      </Link>
    ) : (
      0
    );
  return (
    <Card title={`${t.by[by]} · ${t.details}`}>
      <Table
        caption={t.by[by]}
        rows={rows}
        id={(row) => `${nameOf(row)} ${row.currency}`}
        columns={[
          { title: t.by[by], cell: nameCell },
          { title: t.cost, cell: (row) => money(row.cost, row.currency), isNumber: true },
          { title: t.callsMade, cell: (row) => number(row.calls), isNumber: true },
          { title: t.failed, cell: failedCell, isNumber: true },
          { title: t.refused, cell: refusedCell, isNumber: true },
          { title: t.cancelled, cell: (row) => number(row.cancelled ?? 0), isNumber: true },
          { title: t.attempts, cell: (row) => number(row.attempts), isNumber: true },
          { title: t.failedAttempts, cell: (row) => number(row.failed_attempts ?? 0), isNumber: true },
          { title: t.tokensIn, cell: (row) => number(row.prompt_tokens), isNumber: true },
          { title: t.tokensOut, cell: (row) => number(row.completion_tokens), isNumber: true },
          { title: t.cachedTokens, cell: (row) => number(row.cached_tokens), isNumber: true },
        ]}
      />
    </Card>
  );
};

const Latencies = ({ rows, since }: { rows: Shape<"Percentiles">[]; since: number }) => {
  const { t, number, span } = useChosen();
  const requestsOfModel = (id: string) => {
    const [provider, ...model] = id.split("/");
    return { since, provider, model: model.join("/") };
  };
  const optionalSpan = (seconds: number | null | undefined) => (seconds === null ? "" : span(seconds!));
  return (
    <Card title={t.howLong}>
      <Table
        caption={t.howLong}
        rows={rows}
        id={(row) => row.model}
        columns={[
          {
            title: t.model,
            cell: (row) => (
              <Link to="/requests" search={requestsOfModel(row.model) as never}>
                {row.model}
              </Link>
            ),
          },
          { title: t.callsMade, cell: (row) => number(row.calls), isNumber: true },
          { title: "p50", cell: (row) => span(row.p50), isNumber: true },
          { title: "p90", cell: (row) => span(row.p90), isNumber: true },
          { title: "p99", cell: (row) => span(row.p99), isNumber: true },
          { title: `${t.firstChunk} p50`, cell: (row) => optionalSpan(row.first_p50), isNumber: true },
          { title: `${t.firstChunk} p99`, cell: (row) => optionalSpan(row.first_p99), isNumber: true },
        ]}
      />
    </Card>
  );
};
