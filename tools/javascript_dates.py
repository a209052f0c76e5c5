"""Record how Node.js formats dates: `python -m tools.javascript_dates`.

Writes the patterns and names by which code nodes format dates
(`src/modelyard/sandbox/inside/javascript_dates.json`, a locale a line), and outputs that
the tests compare with (`tests/data/javascript-dates.json`). The names and patterns are
those of the Unicode CLDR (Unicode License V3), as Node's ICU has them. Needs Node.js 20
with full ICU.
"""

import json
import subprocess
from pathlib import Path

from tools.show.proof import ROOT

LOCALES = (
    "en-US", "en-GB", "en-AU", "en-CA", "en-IN", "de", "de-AT", "de-CH", "fr", "fr-CA", "es", "es-MX", "it", "pt", "pt-PT",
    "nl", "sv", "da", "nb", "fi", "pl", "cs", "hu", "ro", "ru", "uk", "tr", "zh", "zh-TW", "zh-HK", "ja", "ko", "vi",
    "id", "hi",
)  # fmt: skip
ZONES = (
    "UTC", "Europe/London", "Europe/Berlin", "Europe/Paris", "Asia/Shanghai", "Asia/Hong_Kong", "Asia/Dubai",
    "Asia/Tokyo", "Asia/Seoul", "Asia/Singapore", "Asia/Kolkata", "Australia/Sydney", "America/New_York", "America/Chicago",
    "America/Denver", "America/Los_Angeles",
)  # fmt: skip
DATA = ROOT / "src" / "modelyard" / "sandbox" / "inside" / "javascript_dates.json"
EXPECTED = ROOT / "tests" / "data" / "javascript-dates.json"
_CASES_PER_LOCALE = 30

# The order of the choices is that of the tables' indexes, which `javascript_dates.py`
# computes in the same way.
_RECORDER = r"""
const [locales, zones, caseCount] = JSON.parse(process.argv[1]);
const WIDTHS = [undefined, "numeric", "2-digit"], NAMES = ["long", "short", "narrow"];
const MONTHS = [...WIDTHS, ...NAMES], DAYS = [undefined, ...NAMES], CYCLES = [undefined, true, false];
const STYLES = ["full", "long", "medium", "short"];
const at = (hour, month = 1, day = 5) => new Date(Date.UTC(2026, month, day, hour, 4, 7));
const parts = (locale, options, date = at(3)) => new Intl.DateTimeFormat(locale, { timeZone: "UTC", ...options }).formatToParts(date);
const value = (locale, options, type, date) => parts(locale, options, date).find((part) => part.type === type)?.value;
// `format` has other spaces than the parts.
const textOf = (locale, options) => parts(locale, options).map((part) => part.value).join("");
const range = (count) => [...Array(count).keys()];

function namesOf(locale) {
  const names = {};
  for (const [index, style] of NAMES.entries()) {
    const length = [4, 3, 5][index];
    names["L".repeat(length)] = range(12).map((month) => value(locale, { month: style }, "month", at(3, month)));
    names["M".repeat(length)] = range(12).map((month) => value(locale, { month: style, day: "numeric" }, "month", at(3, month)));
    names["c".repeat(length)] = range(7).map((day) => value(locale, { weekday: style }, "weekday", at(3, 1, 1 + day)));
    names["E".repeat(length)] = range(7).map((day) =>
      value(locale, { weekday: style, day: "numeric", month: "long", year: "numeric" }, "weekday", at(3, 1, 1 + day)));
  }
  const periods = range(24).map((hour) => value(locale, { hour: "numeric", hour12: true }, "dayPeriod", at(hour)));
  names.a = periods.every((period, hour) => period === periods[hour < 12 ? 0 : 12]) ? [periods[0], periods[12]] : periods;
  // Some patterns have the times of the day instead: early morning, noon, evening.
  names.B = range(24).map((hour) => value(locale, { timeStyle: "short", hour12: true }, "dayPeriod", at(hour)));
  if (names.B.every((period, hour) => period === periods[hour])) delete names.B;
  // Numbers are written as such.
  for (const [letters, list] of Object.entries(names)) if (list.every((name) => /^\d*$/.test(name ?? ""))) delete names[letters];
  return names;
}

const quoted = (text) => /[A-Za-z']/.test(text) ? "'" + text.replace(/'/g, "''") + "'" : text;

// Names of one month may be the same where those of another differ.
function named(names, kinds, texts, indexes) {
  for (const letters of kinds) if (names[letters] && indexes.every((index, at) => names[letters][index] === texts[at])) return letters;
  throw new Error("Unknown name " + texts);
}

function hourOf(locale, options) {
  const [night, morning, afternoon] = [0, 3, 15].map((hour) => value(locale, options, "hour", at(hour)));
  const letter = Number(afternoon) === 3 ? (Number(night) === 12 ? "h" : "K") : Number(night) === 24 ? "k" : "H";
  return letter.repeat(morning.length);
}

function patternOf(locale, options, names) {
  const zone = options.timeZoneName === "long" || options.timeStyle === "full" ? "zzzz" : "z";
  const order = (style, first) => ({ long: [4, 3, 5], short: [3, 4, 5], narrow: [5, 3, 4] }[style] || [4, 3, 5])
    .flatMap((length) => first.map((letter) => letter.repeat(length)));
  const july = parts(locale, options, at(3, 6));
  return parts(locale, options).map(({ type, value: text }, position) => {
    switch (type) {
      case "literal": return quoted(text);
      case "year": return text === "26" ? "yy" : "y";
      case "day": return "d".repeat(text.length);
      case "month": return /^\d+$/.test(text) ? "M".repeat(text.length) : named(names, order(options.month, ["M", "L"]), [text, july[position].value], [1, 6]);
      case "weekday": return named(names, order(options.weekday, ["E", "c"]), [text], [4]);
      case "hour": return hourOf(locale, options);
      case "minute": return "m".repeat(text.length);
      case "second": return "s".repeat(text.length);
      case "dayPeriod": return names.B && names.B[3] === text ? "B" : "a";
      case "timeZoneName": return zone;
      default: throw new Error("Unknown part " + type + " of " + locale);
    }
  }).join("");
}

function gluePattern(locale, options, dateOptions, timeOptions) {
  const [whole, date, time] = [options, dateOptions, timeOptions].map((each) => textOf(locale, each));
  const glued = whole.replace(date, "{1}").replace(time, "{0}");
  return glued.includes("{1}") && glued.includes("{0}") ? glued : "{1} {0}";
}

function recorded(locale) {
  const names = namesOf(locale), patterns = [], indexes = new Map();
  const indexOf = (options) => {
    const pattern = patternOf(locale, options, names);
    if (!indexes.has(pattern)) { indexes.set(pattern, patterns.length); patterns.push(pattern); }
    return indexes.get(pattern);
  };
  const dates = [], times = [], dayTimes = [];
  for (const year of WIDTHS) for (const month of MONTHS) for (const day of WIDTHS) for (const weekday of DAYS)
    dates.push(year || month || day || weekday ? indexOf({ year, month, day, weekday }) : -1);
  for (const hour12 of CYCLES) for (const hour of WIDTHS) for (const minute of WIDTHS) for (const second of WIDTHS)
    times.push(hour || minute || second ? indexOf({ hour12, hour, minute, second }) : -1);
  const zonedTimes = [], styles = [];
  for (const hour12 of CYCLES) for (const hour of WIDTHS) for (const minute of WIDTHS) for (const second of WIDTHS)
    zonedTimes.push(hour || minute || second ? indexOf({ hour12, hour, minute, second, timeZoneName: "short" }) : -1);
  // Next to a time, a weekday alone has patterns of its own.
  for (const weekday of NAMES) for (const timeZoneName of [undefined, "short"])
    for (const hour12 of CYCLES) for (const hour of WIDTHS) for (const minute of WIDTHS) for (const second of WIDTHS)
      dayTimes.push(hour || minute || second ? indexOf({ weekday, hour12, hour, minute, second, timeZoneName }) : -1);
  for (const hour12 of CYCLES) for (const dateStyle of [undefined, ...STYLES]) for (const timeStyle of [undefined, ...STYLES])
    styles.push(dateStyle || timeStyle ? indexOf({ hour12, dateStyle, timeStyle }) : -1);
  const short = { hour: "numeric", minute: "2-digit" };
  const glues = MONTHS.flatMap((month) => [undefined, "long"].map((weekday) => {
    const date = { year: "numeric", month, day: "numeric", weekday };
    return gluePattern(locale, { ...date, ...short }, date, short);
  }));
  const dateZone = parts(locale, { year: "numeric", timeZoneName: "short" }).map((part) => ({ year: "{1}", timeZoneName: "{0}" })[part.type] ?? part.value).join("");
  const offset = (timeZone, timeZoneName) => value(locale, { timeZone, timeZoneName }, "timeZoneName");
  const zoneNames = {};
  for (const timeZone of zones) {
    const seasons = [at(3), at(3, 6)];
    const all = ["short", "long"].flatMap((timeZoneName) => seasons.map((date) => value(locale, { timeZone, timeZoneName }, "timeZoneName", date)));
    const usual = ["shortOffset", "longOffset"].flatMap((timeZoneName) => seasons.map((date) => value(locale, { timeZone, timeZoneName }, "timeZoneName", date)));
    zoneNames[timeZone] = all.map((name, index) => name === usual[index] ? "" : name);
  }
  // Two digits for each index: most of a table would be numbers and commas otherwise.
  const packed = (list) => list.map((index) => index < 0 ? "--" : index.toString(36).padStart(2, "0")).join("");
  return { names, patterns, dates: packed(dates), times: packed(times), zonedTimes: packed(zonedTimes), dayTimes: packed(dayTimes),
    styles: packed(styles), glues, dateZone, zoneNames,
    decimal: parts(locale, { second: "numeric", fractionalSecondDigits: 3 }).find((part) => part.type === "literal").value,
    offsets: ["UTC", "Asia/Dubai", "America/Bogota", "Asia/Kolkata"].map((timeZone) => [offset(timeZone, "shortOffset"), offset(timeZone, "longOffset")]),
    cycle: new Intl.DateTimeFormat(locale, { hour: "numeric" }).resolvedOptions().hourCycle };
}

// The same numbers each time: the recorded cases only change when Node does.
let seed = 20260205;
const random = (count) => { seed = (seed * 1103515245 + 12345) % 2147483648; return Math.floor(seed / 2147483648 * count); };
const pick = (list) => list[random(list.length)];

function randomOptions() {
  const options = {};
  const put = (name, values, chance) => { if (random(10) < chance) options[name] = pick(values); };
  if (random(4) === 0) {
    put("dateStyle", STYLES, 8);
    put("timeStyle", STYLES, options.dateStyle ? 6 : 10);
  } else {
    put("weekday", NAMES, 3); put("year", ["numeric", "2-digit"], 6); put("month", MONTHS.slice(1), 6); put("day", ["numeric", "2-digit"], 6);
    put("hour", ["numeric", "2-digit"], 5); put("minute", ["numeric", "2-digit"], options.hour ? 9 : 1);
    put("second", ["numeric", "2-digit"], options.minute ? 5 : 0);
    if (options.second) put("fractionalSecondDigits", [1, 2, 3], 2);
    // ICU pads the hour of some locales if both are there.
    if (options.minute && !options.fractionalSecondDigits) put("timeZoneName", ["short", "long", "shortOffset", "longOffset"], 2);
  }
  if (options.hour || options.timeStyle) put("hour12", [true, false], 3);
  if (options.hour && options.hour12 === undefined) put("hourCycle", ["h11", "h12", "h23", "h24"], 2);
  // Node has an older name for the zone of India.
  put("timeZone", zones.filter((zone) => zone !== "Asia/Kolkata"), 9);
  options.timeZone ||= "Asia/Dubai";
  return options;
}

function casesOf(locale) {
  return range(caseCount).map(() => {
    const options = randomOptions();
    const time = Date.UTC(1999 + random(30), random(12), 1 + random(28), random(24), random(60), random(60), random(1000));
    const format = new Intl.DateTimeFormat(locale, options), date = new Date(time);
    const { locale: resolved, timeZone, hourCycle, hour12 } = format.resolvedOptions();
    return { locale, options, time, text: format.format(date), parts: format.formatToParts(date).map((part) => [part.type, part.value]),
      resolved: { locale: resolved, timeZone, hourCycle, hour12 }, all: date.toLocaleString(locale, options),
      date: options.timeStyle ? null : date.toLocaleDateString(locale, options), clock: options.dateStyle ? null : date.toLocaleTimeString(locale, options) };
  });
}

const lines = locales.map((locale) => [locale, recorded(locale)]);
console.log(JSON.stringify({ versions: { node: process.version, cldr: process.versions.cldr }, lines, cases: locales.flatMap(casesOf) }));
"""


def record() -> None:
    """Run the recorder and write both files."""
    arguments = json.dumps([LOCALES, ZONES, _CASES_PER_LOCALE])
    command = ["node", "-e", _RECORDER, arguments]
    # What Node complains of is shown as it is.
    output = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    recorded = json.loads(output)
    DATA.write_text(
        "".join(f"{locale}\t{_dumped(data)}\n" for locale, data in recorded["lines"])
    )
    cases = ",\n".join(_dumped(case) for case in recorded["cases"])
    EXPECTED.write_text(
        f'{{"versions": {_dumped(recorded["versions"])}, "cases": [\n{cases}\n]}}\n'
    )
    for path in (DATA, EXPECTED):
        print(f"{path.relative_to(ROOT)}: {_kilobytes(path)} KB")


def _dumped(value: object) -> str:
    """Return JSON on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _kilobytes(path: Path) -> int:
    """Return the size of a file in kilobytes."""
    return path.stat().st_size // 1000


if __name__ == "__main__":
    record()
