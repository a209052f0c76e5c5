import { describe, expect, test } from "vitest";
import { type UsageRow, usageSeries } from "../../src/pages/usage-series";
import { Random, seeds } from "../random";

const DAY = 86_400;
const row = (name: string, day: number, calls: number) => ({ model: name, day, calls }) as UsageRow;
const draw = (rows: UsageRow[], days: number) =>
  usageSeries(
    rows,
    { since: 0, until: days * DAY - 1, unit: "day" },
    (each) => String(each.model),
    (each) => each.calls,
    "others",
  );

describe("the lines of the usage chart", () => {
  test("have a value for each day, also for days without usage", () => {
    const { times, series } = draw([row("a", 1, 2), row("a", 3, 5)], 4);
    expect(times).toEqual([0, DAY, 2 * DAY, 3 * DAY]);
    expect(series).toEqual([{ name: "a", values: [0, 2, 0, 5] }]);
  });

  test("are those of the five largest groups, and one of all others", () => {
    const rows = Array.from({ length: 8 }, (_, index) => row(`model ${index}`, 0, index + 1));
    const { series } = draw(rows, 1);
    expect(series.map(({ name, values }) => [name, values[0]])).toEqual([
      ["model 7", 8],
      ["model 6", 7],
      ["model 5", 6],
      ["model 4", 5],
      ["model 3", 4],
      ["others", 6],
    ]);
  });

  test("add up to all usage within the timespan", () => {
    for (const seed of seeds(100)) {
      const random = new Random(seed);
      const rows = random.list(60, () =>
        row(random.pick([..."abcdefgh"]), random.integer(0, 9), random.integer(0, 50)),
      );
      const { series } = draw(rows, 10);
      const shown = series.flatMap(({ values }) => values).reduce<number>((sum, value) => sum + (value ?? 0), 0);
      expect(shown, `seed ${seed}`).toBe(rows.reduce((sum, each) => sum + each.calls, 0));
    }
  });

  test("of a day have an hour each", () => {
    const hourly = [{ model: "a", hour: 1, calls: 3 } as UsageRow];
    const span = { since: 3600, until: 3 * 3600 - 1, unit: "hour" } as const;
    const { times, series } = usageSeries(
      hourly,
      span,
      () => "a",
      (each) => each.calls,
      "others",
    );
    expect(times).toEqual([3600, 7200]);
    expect(series[0]!.values).toEqual([3, 0]);
  });
});
