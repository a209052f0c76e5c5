import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useMemo } from "react";
import { addressed, api, type Shape } from "../api";
import { Card, Empty, Page, Pick, Trouble } from "../components/base";
import { Chart, type Series } from "../components/chart";
import { Table } from "../components/table";
import { useChosen, useKept } from "../settings";

const SPANS = { day: 86_400, week: 7 * 86_400, month: 30 * 86_400, quarter: 90 * 86_400 } as const;
const BY = ["provider", "model", "user", "key", "credential", "model_type", "status"] as const;
type Sum = Shape<"UsageSum">;
const MEASURES = {
  cost: (one: Sum) => Number(one.cost),
  calls: (one: Sum) => one.calls,
  tokens: (one: Sum) => one.prompt_tokens + one.completion_tokens,
  failed: (one: Sum) => one.failed,
} as const;

export const Usage = () => {
  const { t, number, money, span } = useChosen();
  const [chosen, set] = useKept<{ over: keyof typeof SPANS; by: (typeof BY)[number]; measure: keyof typeof MEASURES }>(
    "usage",
    { over: "month", by: "model", measure: "cost" },
  );
  // biome-ignore lint/correctness/useExhaustiveDependencies: the end of the span moves when another span is chosen
  const until = useMemo(() => Math.floor(Date.now() / 1000) + 60, [chosen.over]);
  const since = until - SPANS[chosen.over];
  const isFine = chosen.over === "day";
  const unit = isFine ? "hour" : "day";
  const sums = useQuery({
    queryKey: ["usage", chosen.by, since],
    queryFn: () => api.usage(chosen.by === "model" ? "provider,model" : chosen.by, since),
  });
  const over = useQuery({
    queryKey: ["usage", unit, chosen.by, since],
    queryFn: () => api.usage(`${unit},${chosen.by === "model" ? "provider,model" : chosen.by}`, since),
  });
  const latency = useQuery({ queryKey: ["latency", since], queryFn: () => api.latency(since, until) });
  const keys = useQuery({ queryKey: ["keys"], queryFn: () => api.all("keys"), retry: false });
  const rows = sums.data ?? [];
  const nameOf = (one: Sum) => {
    if (chosen.by === "model") return `${one.provider}/${one.model}`;
    const name = String(one[chosen.by] ?? "-");
    return (chosen.by === "key" && keys.data?.find((key) => key.id === name)?.name) || (name === "-" ? t.none : name);
  };
  const currencies = [...new Set(rows.map((one) => one.currency))];
  const currency = currencies[0] ?? "USD";
  const shown = useMemo(
    () => (value: number) => (chosen.measure === "cost" ? money(value, currency) : number(value)),
    [chosen.measure, currency, money, number],
  );
  // biome-ignore lint/correctness/useExhaustiveDependencies: names and spans follow from these four
  const { times, series } = useMemo(() => {
    const size = isFine ? 3600 : 86_400;
    const first = Math.floor(since / size);
    const last = Math.floor(until / size);
    const slots = Array.from({ length: last - first + 1 }, (_, at) => first + at);
    const named = new Map<string, Map<number, number>>();
    for (const one of over.data ?? []) {
      const name = nameOf(one);
      const at = (isFine ? one.hour : one.day) ?? 0;
      const line = named.get(name) ?? new Map<number, number>();
      line.set(at, (line.get(at) ?? 0) + MEASURES[chosen.measure](one));
      named.set(name, line);
    }
    const sorted = [...named].sort(
      (a, b) => [...b[1].values()].reduce((x, y) => x + y, 0) - [...a[1].values()].reduce((x, y) => x + y, 0),
    );
    const top: Series[] = sorted
      .slice(0, 5)
      .map(([name, line]) => ({ name, values: slots.map((at) => line.get(at) ?? 0) }));
    if (sorted.length > 5)
      top.push({
        name: t.others,
        values: slots.map((at) => sorted.slice(5).reduce((sum, [, line]) => sum + (line.get(at) ?? 0), 0)),
      });
    return { times: slots.map((at) => at * size), series: top };
  }, [over.data, chosen, keys.data, t]);
  const filter = (one: Sum): Record<string, unknown> => {
    const column = {
      provider: "provider",
      model: "model",
      user: "user",
      key: "key",
      credential: "credential",
      model_type: "type",
      status: "status",
    }[chosen.by];
    const value = one[chosen.by];
    return {
      since,
      ...(value && value !== "-" ? { [column]: value } : {}),
      ...(chosen.by === "model" ? { provider: one.provider } : {}),
    };
  };
  const query = `since=${since}&until=${until}`;
  const total = (pick: (one: Sum) => number, list = rows) => list.reduce((sum, one) => sum + pick(one), 0);
  const cachedCalls = rows.reduce((sum, one) => sum + (one.status === "cached" ? one.calls : 0), 0);
  return (
    <Page
      title={t.usageAndCost}
      actions={
        <>
          <a className="button" href={addressed(`/admin/v1/usage/rows?format=csv&${query}`)} download="usage.csv">
            {t.exportCsv}
          </a>
          <a className="button" href={addressed(`/admin/v1/usage/rows?format=jsonl&${query}`)} download="usage.jsonl">
            {t.exportJson}
          </a>
        </>
      }
    >
      <div className="row">
        <Pick
          label={t.timespan}
          value={chosen.over}
          onChange={(over) => set({ ...chosen, over: over as "day" })}
          options={Object.keys(SPANS).map((one) => [one, t.spans[one as "day"]] as const)}
        />
        <Pick
          label={t.groupBy}
          value={chosen.by}
          onChange={(by) => set({ ...chosen, by: by as "model" })}
          options={BY.map((one) => [one, t.by[one]] as const)}
        />
        <Pick
          label={t.measure}
          value={chosen.measure}
          onChange={(measure) => set({ ...chosen, measure: measure as "cost" })}
          options={Object.keys(MEASURES).map((one) => [one, t.measures[one as "cost"]] as const)}
        />
      </div>
      <Trouble of={[sums, over, latency]} />
      {sums.data && !rows.length ? (
        <Empty title={t.noUsage}>
          <Link to="/playground">{t.stepChat}</Link>
        </Empty>
      ) : (
        <>
          <dl className="figures">
            {currencies.map((one) => (
              <div key={one}>
                <dt>{t.cost}</dt>
                <dd>
                  {money(
                    total(
                      (row) => Number(row.cost),
                      rows.filter((row) => row.currency === one),
                    ),
                    one,
                  )}
                </dd>
              </div>
            ))}
            <div>
              <dt>{t.callsMade}</dt>
              <dd>{number(total((one) => one.calls))}</dd>
            </div>
            <div>
              <dt>{t.failed}</dt>
              <dd>{number(total((one) => one.failed))}</dd>
            </div>
            <div>
              <dt>{t.tokensIn}</dt>
              <dd>{number(total((one) => one.prompt_tokens))}</dd>
            </div>
            <div>
              <dt>{t.tokensOut}</dt>
              <dd>{number(total((one) => one.completion_tokens))}</dd>
            </div>
            <div>
              <dt>{t.cachedTokens}</dt>
              <dd>{number(total((one) => one.cached_tokens))}</dd>
            </div>
            {chosen.by === "status" && (
              <div>
                <dt>{t.cacheHits}</dt>
                <dd>{number(cachedCalls)}</dd>
              </div>
            )}
          </dl>
          {total((one) => one.unpriced) > 0 && <p className="soft">{t.unpricedText}</p>}
          <Card title={`${t.measures[chosen.measure]} · ${t.by[chosen.by]}`}>
            {series.length > 0 && (
              <Chart
                label={`${t.measures[chosen.measure]} · ${t.by[chosen.by]}`}
                times={times}
                series={series}
                shown={shown}
              />
            )}
          </Card>
          <Card title={`${t.by[chosen.by]} · ${t.details}`}>
            <Table
              caption={t.by[chosen.by]}
              rows={rows}
              id={(one) => `${nameOf(one)} ${one.currency}`}
              columns={[
                {
                  title: t.by[chosen.by],
                  cell: (one) => (
                    <Link to="/requests" search={filter(one) as never}>
                      {nameOf(one)}
                    </Link>
                  ),
                },
                { title: t.cost, cell: (one) => money(one.cost, one.currency), isNumber: true },
                { title: t.callsMade, cell: (one) => number(one.calls), isNumber: true },
                { title: t.attempts, cell: (one) => number(one.attempts), isNumber: true },
                {
                  title: t.failed,
                  cell: (one) =>
                    one.failed ? (
                      <Link to="/requests" search={{ ...filter(one), status: "failed" } as never}>
                        {number(one.failed)}
                      </Link>
                    ) : (
                      0
                    ),
                  isNumber: true,
                },
                { title: t.tokensIn, cell: (one) => number(one.prompt_tokens), isNumber: true },
                { title: t.tokensOut, cell: (one) => number(one.completion_tokens), isNumber: true },
                { title: t.cachedTokens, cell: (one) => number(one.cached_tokens), isNumber: true },
              ]}
            />
          </Card>
          {(latency.data?.length ?? 0) > 0 && (
            <Card title={t.howLong}>
              <Table
                caption={t.howLong}
                rows={latency.data!}
                id={(one) => one.model}
                columns={[
                  {
                    title: t.model,
                    cell: (one) => (
                      <Link
                        to="/requests"
                        search={
                          {
                            since,
                            provider: one.model.split("/")[0],
                            model: one.model.split("/").slice(1).join("/"),
                          } as never
                        }
                      >
                        {one.model}
                      </Link>
                    ),
                  },
                  { title: t.callsMade, cell: (one) => number(one.calls), isNumber: true },
                  { title: "p50", cell: (one) => span(one.p50), isNumber: true },
                  { title: "p90", cell: (one) => span(one.p90), isNumber: true },
                  { title: "p99", cell: (one) => span(one.p99), isNumber: true },
                  {
                    title: `${t.firstChunk} p50`,
                    cell: (one) => (one.first_p50 === null ? "" : span(one.first_p50)),
                    isNumber: true,
                  },
                  {
                    title: `${t.firstChunk} p99`,
                    cell: (one) => (one.first_p99 === null ? "" : span(one.first_p99)),
                    isNumber: true,
                  },
                ]}
              />
            </Card>
          )}
        </>
      )}
    </Page>
  );
};
