import { createElement } from "react";
import { describe, expect, test } from "vitest";
import { Statistics } from "../../src/pages/app-statistics";
import {
  chartsOf,
  dayCount,
  dayOf,
  type Figures,
  isUnused,
  isValidRange,
  lastDays,
  MAX_DAYS,
  rangeQuery,
  seriesOf,
  timesOf,
} from "../../src/pages/statistics-series";
import { draw, T } from "../drawing";
import { Random, seeds } from "../random";

const figures = (change: Partial<Figures> = {}): Figures => ({
  day: "",
  messages: 0,
  runs: 0,
  end_users: 0,
  conversations: 0,
  interactions: null,
  prompt_tokens: 0,
  completion_tokens: 0,
  costs: {},
  unpriced: 0,
  tokens_per_second: null,
  likes: 0,
  dislikes: 0,
  likes_per_1000: null,
  ...change,
});

describe("a range of days", () => {
  test("has as many days as are asked for, and ends today", () => {
    for (const seed of seeds(100)) {
      const random = new Random(seed);
      const now = new Date(random.integer(1990, 2060), random.integer(0, 11), random.integer(1, 28), 23, 59);
      const count = random.integer(1, MAX_DAYS);
      const range = lastDays(count, now);
      expect(range.to, `seed ${seed}`).toBe(dayOf(now));
      expect(dayCount(range), `seed ${seed}`).toBe(count);
      expect(isValidRange(range), `seed ${seed}`).toBe(true);
    }
  });

  // The server counts days by the offset: with this range, it answers with exactly these days.
  test("begins and ends at midnight of the caller", () => {
    for (const seed of seeds(100)) {
      const random = new Random(seed);
      const range = lastDays(random.integer(1, MAX_DAYS), new Date(2026, 10, 30));
      const { since, until, offset } = rangeQuery(range, random.integer(-840, 840));
      const dayAt = (time: number) => new Date((time + offset * 60) * 1000).toISOString();
      expect(dayAt(since), `seed ${seed}`).toBe(`${range.from}T00:00:00.000Z`);
      expect(dayAt(until - 1), `seed ${seed}`).toBe(`${range.to}T23:59:59.000Z`);
      expect((until - since) / 86_400, `seed ${seed}`).toBe(dayCount(range));
    }
  });

  test.each([
    ["2026-11-30", "2026-11-29"],
    ["2025-01-01", "2026-11-30"],
    ["", "2026-11-30"],
    ["2026-11-30", ""],
    ["2026-13-40", "2026-12-01"],
    ["1969-12-31", "1970-01-02"],
    ["yesterday", "today"],
  ])("from %j to %j is refused", (from, to) => {
    expect(isValidRange({ from, to })).toBe(false);
  });
});

describe("charts", () => {
  const days = [
    figures({
      day: "2026-11-29",
      messages: 3,
      runs: 1,
      prompt_tokens: 10,
      completion_tokens: 4,
      costs: { USD: "0.10" },
    }),
    figures({ day: "2026-11-30", messages: 2, interactions: 1.5, costs: { EUR: "2", USD: "0.30" }, likes: 1 }),
  ];
  const total = figures({
    messages: 5,
    prompt_tokens: 10,
    completion_tokens: 4,
    costs: { EUR: "2", USD: "0.40" },
    interactions: 1.5,
  });
  const charts = chartsOf(days, total);
  const chartOf = (measure: string, currency = "") =>
    charts.find((chart) => chart.measure === measure && chart.currency === currency)!;

  test("never add up money of different currencies", () => {
    expect(chartOf("cost", "USD")).toMatchObject({ total: 0.4, lines: [{ values: [0.1, 0.3] }] });
    expect(chartOf("cost", "EUR")).toMatchObject({ total: 2, lines: [{ values: [0, 2] }] });
  });

  test("have a value for each day, and none where there is none", () => {
    expect(chartOf("messages").lines[0]!.values).toEqual([3, 2]);
    expect(chartOf("interactions").lines[0]!.values).toEqual([null, 1.5]);
    expect(chartOf("tokens").total).toBe(14);
    for (const chart of charts) for (const line of chart.lines) expect(line.values.length).toBe(days.length);
    const names = { tokensIn: "in", tokensOut: "out", value: "all" };
    expect(seriesOf(chartOf("tokens"), names).map((series) => series.name)).toEqual(["in", "out"]);
  });

  test("have each day at its own midnight", () => {
    expect(timesOf(days).map((time) => dayOf(new Date(time * 1000)))).toEqual(["2026-11-29", "2026-11-30"]);
  });

  test("are empty only if nothing was counted", () => {
    expect(isUnused(figures())).toBe(true);
    for (const name of ["messages", "runs", "prompt_tokens", "completion_tokens", "likes", "dislikes"] as const)
      expect(isUnused(figures({ [name]: 1 })), name).toBe(false);
  });

  const choice = { period: "days", range: { from: "2026-11-29", to: "2026-11-30" } };
  const key = ["usage", "statistics", "a1", rangeQuery(choice.range, -new Date().getTimezoneOffset())];
  const page = (answers: Parameters<typeof draw>[1], stored: unknown = choice) => {
    sessionStorage.setItem("modelyard.statistics", JSON.stringify(stored));
    const html = draw(createElement(Statistics, { id: "a1", name: "Support" }), answers);
    sessionStorage.removeItem("modelyard.statistics");
    return html;
  };

  test("stand on the page with a table of the same numbers", () => {
    const html = page({ data: [[key, { data: days, total, since: 0, until: 1 }]] });
    expect(html).toContain('aria-label="Messages: 5 in 2 days"');
    expect(html).toContain('<th scope="row">2026-11-30</th>');
    expect(html.indexOf("2026-11-30</th>")).toBeLessThan(html.indexOf("2026-11-29</th>"));
    for (const text of ["$0.40", "€2.00", "Cost (USD)", "Cost (EUR)", T.byDay]) expect(html).toContain(text);
    expect(html).toContain("format=csv");
  });

  test("are left out without any use, while the page loads, and after an error", () => {
    const unused = { data: [], total: figures(), since: 0, until: 1 };
    expect(page({ data: [[key, unused]] })).toContain(T.noStatistics);
    expect(page({})).toContain(T.loading);
    expect(page({ errors: [[key, new Error("No figures today")]] })).toContain("No figures today");
  });

  test("are not asked for with a range that is refused", () => {
    const html = page({}, { period: "days", range: { from: "2026-11-30", to: "2026-11-29" } });
    expect(html).toContain("Choose a first day");
    expect(html).not.toContain(T.loading);
    expect(html).not.toContain("format=csv");
  });
});
