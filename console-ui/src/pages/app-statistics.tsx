// How an app is used, by day.
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useMemo } from "react";
import { addressed, api } from "../api";
import { Card, Empty, Field, Loading, Pick, Trouble } from "../components/base";
import { Chart } from "../components/chart";
import { type Column, Table } from "../components/table";
import { filled } from "../messages";
import { useChosen, useKept } from "../settings";
import {
  chartsOf,
  type DayRange,
  dayOf,
  type FigureChart,
  type Figures,
  isUnused,
  isValidRange,
  lastDays,
  MAX_DAYS,
  rangeQuery,
  seriesOf,
  timesOf,
} from "./statistics-series";

const PERIODS = { week: 7, month: 30, quarter: 90 } as const;
interface Choice {
  period: keyof typeof PERIODS | "days";
  range: DayRange;
}

const rangeOf = ({ period, range }: Choice): DayRange =>
  period === "days" ? range : lastDays(PERIODS[period], new Date());

export const Statistics = ({ id, name }: { id: string; name: string }) => {
  const { t } = useChosen();
  const [choice, setChoice] = useKept<Choice>("statistics", { period: "month", range: lastDays(30, new Date()) });
  const range = rangeOf(choice);
  const isValid = isValidRange(range);
  const query = rangeQuery(range, -new Date().getTimezoneOffset());
  const figures = useQuery({
    queryKey: ["usage", "statistics", id, query],
    queryFn: () => api.statistics(id, query),
    enabled: isValid,
    placeholderData: (before) => before,
  });
  const csv = `/admin/v1/apps/${id}/statistics?format=csv&since=${query.since}&until=${query.until}&offset=${query.offset}`;
  return (
    <>
      <RangeForm choice={choice} range={range} onChange={setChoice} />
      {isValid ? (
        <p>
          <a className="button" href={addressed(csv)} download={`${name}.csv`}>
            {t.exportCsv}
          </a>
        </p>
      ) : (
        <p className="wrong" role="alert">
          {filled(t.wrongRange, { max: MAX_DAYS })}
        </p>
      )}
      <Trouble of={[figures]} />
      <Loading of={[figures]} />
      {figures.data && isUnused(figures.data.total) && (
        <Empty title={t.noStatistics}>
          <Link to="/apps/$id" params={{ id }} search={{ tab: "publish" } as never}>
            {t.publishing}
          </Link>
        </Empty>
      )}
      {figures.data && !isUnused(figures.data.total) && (
        <>
          <Charts days={figures.data.data} total={figures.data.total} />
          <Days days={figures.data.data} total={figures.data.total} />
        </>
      )}
    </>
  );
};

const RangeForm = ({
  choice,
  range,
  onChange,
}: {
  choice: Choice;
  range: DayRange;
  onChange: (choice: Choice) => void;
}) => {
  const { t } = useChosen();
  const today = dayOf(new Date());
  return (
    <div className="row">
      <Pick
        label={t.timespan}
        value={choice.period}
        // The days of the last period are where somebody starts to choose others.
        onChange={(period) => onChange({ period: period as Choice["period"], range })}
        options={[
          ...(Object.keys(PERIODS) as (keyof typeof PERIODS)[]).map((period) => [period, t.spans[period]] as const),
          ["days", t.chosenDays] as const,
        ]}
      />
      {choice.period === "days" && (
        <>
          <Field label={t.firstDay}>
            <input
              type="date"
              max={today}
              value={range.from}
              onChange={(event) => onChange({ ...choice, range: { ...range, from: event.target.value } })}
            />
          </Field>
          <Field label={t.finalDay}>
            <input
              type="date"
              max={today}
              value={range.to}
              onChange={(event) => onChange({ ...choice, range: { ...range, to: event.target.value } })}
            />
          </Field>
        </>
      )}
    </div>
  );
};

const useShown = () => {
  const { number, money } = useChosen();
  return (chart: FigureChart, value: number | null) => {
    if (value === null) return "–";
    return chart.measure === "cost" ? money(value, chart.currency) : number(value);
  };
};

const Charts = ({ days, total }: { days: Figures[]; total: Figures }) => {
  const { t, number } = useChosen();
  const charts = useMemo(() => chartsOf(days, total), [days, total]);
  const times = useMemo(() => timesOf(days), [days]);
  return (
    <>
      {total.unpriced > 0 && <p className="soft">{t.unpricedText}</p>}
      <div className="two">
        {charts.map((chart) => (
          <FigureCard key={`${chart.measure} ${chart.currency}`} chart={chart} times={times} />
        ))}
      </div>
      <p className="soft small">
        {filled(t.ratingsCount, { likes: number(total.likes), dislikes: number(total.dislikes) })} {t.testsNotCounted}
      </p>
    </>
  );
};

// A picture of one figure, with its sum. What it shows by day stands in the table below.
const FigureCard = ({ chart, times }: { chart: FigureChart; times: number[] }) => {
  const { t, number, money } = useChosen();
  const shownValue = useShown();
  const title = t.figures[chart.measure];
  const series = useMemo(
    () => seriesOf(chart, { tokensIn: t.tokensIn, tokensOut: t.tokensOut, value: title }),
    [chart, t, title],
  );
  const onAxis = useMemo(
    () => (value: number) => (chart.measure === "cost" ? money(value, chart.currency) : number(value)),
    [chart, money, number],
  );
  return (
    <Card title={title}>
      <p className="figure-total">{shownValue(chart, chart.total)}</p>
      <p className="soft small">{t.figureTexts[chart.measure]}</p>
      <Chart
        label={filled(t.chartOf, { name: title, total: shownValue(chart, chart.total), days: times.length })}
        times={times}
        series={series}
        shown={onAxis}
        height={140}
      />
    </Card>
  );
};

// The table has what the charts show, newest first.
const Days = ({ days, total }: { days: Figures[]; total: Figures }) => {
  const { t, number, money } = useChosen();
  const optional = (value: number | null) => (value === null ? "–" : number(value));
  const counts = (["messages", "runs", "end_users", "conversations"] as const).map(
    (name): Column<Figures> => ({ title: t.figures[name], cell: (row) => number(row[name]), isNumber: true }),
  );
  const currencies = Object.keys(total.costs).map(
    (currency): Column<Figures> => ({
      title: `${t.cost} (${currency})`,
      cell: (row) => money(row.costs[currency] ?? 0, currency),
      isNumber: true,
    }),
  );
  return (
    <Card title={t.byDay}>
      <Table
        caption={t.byDay}
        rows={[...days].reverse()}
        id={(row) => row.day}
        columns={[
          { title: t.day, cell: (row) => row.day },
          ...counts,
          { title: t.figures.interactions, cell: (row) => optional(row.interactions), isNumber: true },
          { title: t.tokensIn, cell: (row) => number(row.prompt_tokens), isNumber: true },
          { title: t.tokensOut, cell: (row) => number(row.completion_tokens), isNumber: true },
          ...currencies,
          { title: t.figures.tokens_per_second, cell: (row) => optional(row.tokens_per_second), isNumber: true },
          { title: t.ratings.like, cell: (row) => number(row.likes), isNumber: true },
          { title: t.ratings.dislike, cell: (row) => number(row.dislikes), isNumber: true },
          { title: t.figures.likes_per_1000, cell: (row) => optional(row.likes_per_1000), isNumber: true },
        ]}
      />
    </Card>
  );
};
