// What the usage chart shows: one line for each of the largest groups.
import type { Shape } from "../api";
import type { Series } from "../components/chart";

export type UsageRow = Shape<"UsageSum">;
// The counts of all calls of a timespan, the same for every grouping.
export interface CallTotals {
  calls: number;
  failed: number;
  cancelled: number;
  refused: number;
}
export const NO_CALLS: CallTotals = { calls: 0, failed: 0, cancelled: 0, refused: 0 };
export interface Timespan {
  // In seconds since 1970.
  since: number;
  until: number;
  unit: "hour" | "day";
}

const MAX_LINES = 5;
const SECONDS = { hour: 3600, day: 86_400 };

type Values = Map<number, number>;

const sum = (values: Iterable<number>) => [...values].reduce((total, value) => total + value, 0);

// The measured values of each group by slot: hours or days since 1970.
const valuesByGroup = (
  rows: UsageRow[],
  unit: Timespan["unit"],
  nameOf: (row: UsageRow) => string,
  measure: (row: UsageRow) => number,
): Map<string, Values> => {
  const groups = new Map<string, Values>();
  for (const row of rows) {
    const slot = row[unit] ?? 0;
    const values = groups.get(nameOf(row)) ?? new Map<number, number>();
    values.set(slot, (values.get(slot) ?? 0) + measure(row));
    groups.set(nameOf(row), values);
  }
  return groups;
};

// All slots of the timespan are there, also those without usage. The smaller groups share a line.
export const usageSeries = (
  rows: UsageRow[],
  { since, until, unit }: Timespan,
  nameOf: (row: UsageRow) => string,
  measure: (row: UsageRow) => number,
  othersName: string,
): { times: number[]; series: Series[] } => {
  const size = SECONDS[unit];
  const firstSlot = Math.floor(since / size);
  const slotCount = Math.floor(until / size) - firstSlot + 1;
  const slots = Array.from({ length: slotCount }, (_, index) => firstSlot + index);
  const groups = [...valuesByGroup(rows, unit, nameOf, measure)].sort(
    ([, a], [, b]) => sum(b.values()) - sum(a.values()),
  );
  const series: Series[] = groups
    .slice(0, MAX_LINES)
    .map(([name, values]) => ({ name, values: slots.map((slot) => values.get(slot) ?? 0) }));
  const others = groups.slice(MAX_LINES).map(([, values]) => values);
  if (others.length)
    series.push({
      name: othersName,
      values: slots.map((slot) => sum(others.map((values) => values.get(slot) ?? 0))),
    });
  return { times: slots.map((slot) => slot * size), series };
};
