// An app's figures by day: the range of days that is asked for, and what the charts show of the answer.
import type { Shape, StatisticsQuery } from "../api";
import type { Series } from "../components/chart";

export type Figures = Shape<"StatisticsView">;
// Both days are included, as `2026-11-30`.
export interface DayRange {
  from: string;
  to: string;
}

const DAY_SECONDS = 86_400;
// The server reads all rows of a range, so it has a limit.
export const MAX_DAYS = 366;

const DATE = /^\d{4}-\d{2}-\d{2}$/;
const pad = (value: number) => String(value).padStart(2, "0");

// A day of the caller's calendar.
export const dayOf = (time: Date): string => `${time.getFullYear()}-${pad(time.getMonth() + 1)}-${pad(time.getDate())}`;

// Seconds since 1970 at the start of a day in UTC; NaN for what is no day.
const utcSeconds = (day: string): number => (DATE.test(day) ? Date.parse(`${day}T00:00:00Z`) / 1000 : Number.NaN);

// The last days, with today.
export const lastDays = (count: number, now: Date): DayRange => ({
  from: dayOf(new Date(now.getFullYear(), now.getMonth(), now.getDate() - count + 1)),
  to: dayOf(now),
});

export const dayCount = ({ from, to }: DayRange): number => (utcSeconds(to) - utcSeconds(from)) / DAY_SECONDS + 1;

export const isValidRange = (range: DayRange): boolean => {
  const count = dayCount(range);
  return count >= 1 && count <= MAX_DAYS && utcSeconds(range.from) >= DAY_SECONDS;
};

// `offset`: minutes by which the caller's clock is ahead of UTC. One for the whole range, as the server counts: a change
// between summer and winter time moves the border of earlier days by an hour.
export const rangeQuery = ({ from, to }: DayRange, offset: number): StatisticsQuery => ({
  since: utcSeconds(from) - offset * 60,
  until: utcSeconds(to) + DAY_SECONDS - offset * 60,
  offset,
});

// Local midnight, at which the chart's axis has the day.
const chartTime = (day: string): number => {
  const [year = 0, month = 1, date = 1] = day.split("-").map(Number);
  return new Date(year, month - 1, date).getTime() / 1000;
};

export const MEASURES = [
  "messages",
  "runs",
  "end_users",
  "interactions",
  "tokens",
  "cost",
  "tokens_per_second",
  "likes_per_1000",
] as const;
export type Measure = (typeof MEASURES)[number];

// One chart: amounts of different currencies are never added up, so each has a chart of its own.
export interface FigureChart {
  measure: Measure;
  // Of costs alone.
  currency: string;
  // Of the whole range; null without a value.
  total: number | null;
  // The names of the lines are keys of the page's words.
  lines: { name: "tokensIn" | "tokensOut" | "value"; values: (number | null)[] }[];
}

const single = (days: Figures[], total: Figures, measure: Exclude<Measure, "tokens" | "cost">): FigureChart => ({
  measure,
  currency: "",
  total: total[measure],
  lines: [{ name: "value", values: days.map((day) => day[measure]) }],
});

const tokens = (days: Figures[], total: Figures): FigureChart => ({
  measure: "tokens",
  currency: "",
  total: total.prompt_tokens + total.completion_tokens,
  lines: [
    { name: "tokensIn", values: days.map((day) => day.prompt_tokens) },
    { name: "tokensOut", values: days.map((day) => day.completion_tokens) },
  ],
});

const costs = (days: Figures[], total: Figures): FigureChart[] =>
  Object.entries(total.costs).map(([currency, amount]) => ({
    measure: "cost",
    currency,
    total: Number(amount),
    lines: [{ name: "value", values: days.map((day) => Number(day.costs[currency] ?? 0)) }],
  }));

export const chartsOf = (days: Figures[], total: Figures): FigureChart[] =>
  MEASURES.flatMap((measure) => {
    if (measure === "tokens") return [tokens(days, total)];
    return measure === "cost" ? costs(days, total) : [single(days, total, measure)];
  });

export const timesOf = (days: Figures[]): number[] => days.map((day) => chartTime(day.day));

export const seriesOf = (chart: FigureChart, names: Record<FigureChart["lines"][number]["name"], string>): Series[] =>
  chart.lines.map((line) => ({ name: names[line.name], values: line.values }));

export const isUnused = (total: Figures): boolean =>
  !(total.messages || total.runs || total.prompt_tokens || total.completion_tokens || total.likes || total.dislikes);
