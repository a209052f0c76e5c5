"""`Intl.DateTimeFormat` and the `toLocale…` methods of dates, as Node.js formats them.

The names and patterns of 35 locales are recorded from Node.js (`tools/javascript_dates.py`);
other locales of the same language use those of a neighbour, and other languages American
English, as Node.js does without their data. Time zones are those of Python.
"""
# This program imports nothing of ours, and the packages it uses have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import os
import re
from typing import Any

_NAMES = re.compile(
    r"\b(?:Intl|toLocaleString|toLocaleDateString|toLocaleTimeString)\b"
)
_DATA = os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "javascript_dates.json"
)
# What ECMA-402 permits besides names: an offset.
_OFFSET = re.compile(r"([+-])([01][0-9]|2[0-3])(?::?([0-5][0-9]))?")


def is_needed(code: Any) -> Any:
    """Return whether code names something that this module defines."""
    return _NAMES.search(code) is not None


def install(context: Any) -> None:
    """Define the names in an interpreter that has those of `javascript_modules`."""
    context.add_callable("__locales", _locales)
    context.add_callable("__table", _table)
    context.add_callable("__zone", _zone)
    context.add_callable("__offset", _offset)
    # The source removes the helpers again, so that code sees only standard names.
    context.eval(_SOURCE)


def _read_tables() -> Any:
    """Return locale → table as JSON."""
    with open(_DATA, encoding="utf-8") as file:
        return dict(line.rstrip("\n").split("\t") for line in file)


# Read once, when the process starts from which programs are forked.
_TABLES = _read_tables()


def _locales() -> Any:
    """Return the recorded locales, separated by spaces."""
    return " ".join(_TABLES)


def _table(locale: Any) -> Any:
    """Return the table of a recorded locale as JSON."""
    return _TABLES[locale]


def _zone(name: Any) -> Any:
    """Return the name of a time zone as the database spells it; empty for an unknown
    one. Without a name, return the machine's."""
    import zoneinfo

    if name is None:
        target = os.path.realpath("/etc/localtime").partition("zoneinfo/")[2]
        return target if target and _zone(target) else "UTC"
    if match := _OFFSET.fullmatch(name):
        sign, hours, minutes = match.groups()
        return f"{sign}{hours}:{minutes or '00'}"
    if name.upper() in ("UTC", "GMT", "ETC/UTC", "ETC/GMT"):
        return "UTC"
    try:
        return zoneinfo.ZoneInfo(name).key
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        # In another spelling; the list takes long to read.
        names = {known.lower(): known for known in zoneinfo.available_timezones()}
        return names.get(name.lower(), "")


def _offset(zone: Any, milliseconds: Any) -> Any:
    """Return by how many seconds a zone is ahead of UTC at a time since 1970."""
    import datetime
    import zoneinfo

    if match := _OFFSET.fullmatch(zone):
        sign, hours, minutes = match.groups()
        seconds = int(hours) * 3600 + int(minutes) * 60
        return -seconds if sign == "-" else seconds
    # Years beyond Python's have no rules of their own.
    seconds = max(-62135510400, min(float(milliseconds) / 1000, 253402214400))
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    moment += datetime.timedelta(seconds=seconds)
    difference = moment.astimezone(zoneinfo.ZoneInfo(zone)).utcoffset()
    return int(difference.total_seconds()) if difference is not None else 0


_SOURCE = r"""
(() => {
  const locales = globalThis.__locales().split(" "), load = globalThis.__table;
  const zoneName = globalThis.__zone, offsetOf = globalThis.__offset;
  for (const name of ["__locales", "__table", "__zone", "__offset"]) delete globalThis[name];
  const tables = new Map();
  const tableOf = (locale) => {
    if (!tables.has(locale)) tables.set(locale, JSON.parse(load(locale)));
    return tables.get(locale);
  };
  const WIDTHS = [undefined, "numeric", "2-digit"], NAMES = ["long", "short", "narrow"];
  const MONTHS = [...WIDTHS, ...NAMES], DAYS = [undefined, ...NAMES], STYLES = ["full", "long", "medium", "short"];
  const ZONES = { short: "z", long: "zzzz", shortOffset: "O", longOffset: "OOOO", shortGeneric: "z", longGeneric: "zzzz" };
  const ALLOWED = { weekday: NAMES, year: WIDTHS.slice(1), month: MONTHS.slice(1), day: WIDTHS.slice(1), hour: WIDTHS.slice(1),
    minute: WIDTHS.slice(1), second: WIDTHS.slice(1), fractionalSecondDigits: [1, 2, 3], timeZoneName: Object.keys(ZONES),
    hourCycle: ["h11", "h12", "h23", "h24"], dateStyle: STYLES, timeStyle: STYLES };
  const DATE_FIELDS = ["weekday", "year", "month", "day"], TIME_FIELDS = ["hour", "minute", "second", "fractionalSecondDigits"];
  const LETTERS = { h11: "K", h12: "h", h23: "H", h24: "k" };

  const canonical = (tag) => {
    const text = String(tag).replace(/_/g, "-");
    if (!/^[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*$/.test(text)) throw new RangeError("Incorrect locale information provided");
    const [language, ...rest] = text.split(/-[a-z0-9]-/i)[0].split("-");
    return [language.toLowerCase(), ...rest.map((part) => part.length === 4 ? part[0].toUpperCase() + part.slice(1).toLowerCase()
      : part.length === 2 ? part.toUpperCase() : part.toLowerCase())];
  };
  // A locale without a table of its own uses its language's, or the one that is nearest to it.
  const NEAREST = { en: "en-GB", es: "es-MX", pt: "pt-PT" };
  const recordedFor = (parts) => {
    const [language, ...rest] = parts, region = rest.find((part) => /^[A-Z]{2}$|^\d{3}$/.test(part));
    if (language === "zh") {
      if (region === "HK" || region === "MO") return rest.includes("Hans") ? "zh" : "zh-HK";
      return rest.includes("Hant") || region === "TW" ? "zh-TW" : "zh";
    }
    const main = { en: "en-US", no: "nb", nn: "nb", in: "id" }[language] || language;
    if (!region || { es: "ES", pt: "BR" }[language] === region) return main;
    if (locales.includes(language + "-" + region)) return language + "-" + region;
    return NEAREST[language] || main;
  };
  const resolved = (requested) => {
    const tags = requested === undefined ? [] : Array.isArray(requested) ? requested : [requested];
    for (const parts of tags.map(canonical)) {
      const recorded = recordedFor(parts);
      if (locales.includes(recorded)) return { locale: parts.join("-"), recorded };
    }
    return { locale: "en-US", recorded: "en-US" };
  };

  const checked = (given) => {
    const options = {};
    for (const [name, values] of Object.entries(ALLOWED)) {
      let value = given[name];
      if (value === undefined) continue;
      if (name === "fractionalSecondDigits") { value = Number(value); if (!value) continue; } else value = String(value);
      if (!values.includes(value)) throw new RangeError("Value " + value + " out of range for Intl.DateTimeFormat options property " + name);
      options[name] = value;
    }
    if (given.hour12 !== undefined) { options.hour12 = Boolean(given.hour12); delete options.hourCycle; }
    if (options.dateStyle || options.timeStyle) for (const name of [...DATE_FIELDS, ...TIME_FIELDS, "timeZoneName"])
      if (options[name] !== undefined) throw new TypeError("Can't set option " + name + " when " + (options.dateStyle ? "dateStyle" : "timeStyle") + " is used");
    return options;
  };
  const withDefaults = (options, required, defaults) => {
    const needed = [...(required === "time" ? [] : DATE_FIELDS), ...(required === "date" ? [] : TIME_FIELDS)];
    if (options.dateStyle && required === "time") throw new TypeError("Invalid option : dateStyle");
    if (options.timeStyle && required === "date") throw new TypeError("Invalid option : timeStyle");
    if (options.dateStyle || options.timeStyle || needed.some((name) => options[name] !== undefined)) return options;
    const added = [...(defaults === "time" ? [] : ["year", "month", "day"]), ...(defaults === "date" ? [] : ["hour", "minute", "second"])];
    return { ...options, ...Object.fromEntries(added.map((name) => [name, "numeric"])) };
  };

  const quoted = (text) => text && "'" + text.replace(/'/g, "''") + "'";
  const glued = (glue, date, time) => glue.split(/(\{[01]\})/).map((piece) => piece === "{1}" ? date : piece === "{0}" ? time : quoted(piece)).join("\0");
  const cycleIndex = (options) => {
    const isTwelve = options.hour12 ?? (options.hourCycle && ["h11", "h12"].includes(options.hourCycle));
    return isTwelve === undefined ? 0 : isTwelve ? 1 : 2;
  };
  // Text in quotes stays as it is.
  const outsideQuotes = (pattern, change) => pattern.split(/('(?:[^']|'')*')/).map((piece, index) => index % 2 ? piece : change(piece)).join("");
  const withCycle = (pattern, hourCycle) => !hourCycle ? pattern
    : outsideQuotes(pattern, (text) => text.replace(/[hHkK]/g, LETTERS[hourCycle]));
  const listed = (table, name, index) => table.patterns[parseInt(table[name].slice(2 * index, 2 * index + 2), 36)] || "";
  const isDayAlone = (options) => !options.fractionalSecondDigits && DATE_FIELDS.every((name) => (name === "weekday") === (options[name] !== undefined));
  const datePattern = (table, { year, month, day, weekday }) => {
    const index = ((WIDTHS.indexOf(year) * 6 + MONTHS.indexOf(month)) * 3 + WIDTHS.indexOf(day)) * 4 + DAYS.indexOf(weekday);
    return listed(table, "dates", index);
  };
  const timePattern = (table, options) => {
    const { hour, minute, second, fractionalSecondDigits: digits, timeZoneName } = options;
    const index = ((cycleIndex(options) * 3 + WIDTHS.indexOf(hour)) * 3 + WIDTHS.indexOf(minute)) * 3 + WIDTHS.indexOf(second);
    const pattern = isDayAlone(options) ? listed(table, "dayTimes", (NAMES.indexOf(options.weekday) * 2 + (timeZoneName ? 1 : 0)) * 81 + index)
      : listed(table, timeZoneName ? "zonedTimes" : "times", index);
    if (!digits) return pattern;
    const fraction = "S".repeat(digits);
    return second ? outsideQuotes(pattern, (text) => text.replace(/s+/, (letters) => letters + quoted(table.decimal) + fraction)) : pattern + fraction;
  };
  const patternOf = (table, options) => {
    const { dateStyle, timeStyle, hourCycle } = options, index = cycleIndex(options);
    if (dateStyle || timeStyle) {
      const styles = [undefined, ...STYLES], row = (index * 5 + styles.indexOf(dateStyle)) * 5 + styles.indexOf(timeStyle);
      return withCycle(listed(table, "styles", row), hourCycle);
    }
    const zone = ZONES[options.timeZoneName], date = datePattern(table, options);
    const time = withCycle(outsideQuotes(timePattern(table, options), (text) => text.replace(/z+/, zone)), hourCycle);
    if (time && isDayAlone(options)) return time;
    if (!date || !time) return date && zone ? glued(table.dateZone, date, zone) : date || time || zone || "";
    return glued(table.glues[MONTHS.indexOf(options.month) * 2 + (options.weekday ? 1 : 0)], date, time);
  };

  const pad = (number, size) => String(number).padStart(size, "0");
  const offsetText = (table, seconds, isLong) => {
    const column = isLong ? 1 : 0, [none, plus, minus, half] = table.offsets.map((sample) => sample[column]);
    if (!seconds) return none;
    const total = Math.round(Math.abs(seconds) / 60), hours = Math.floor(total / 60), minutes = total % 60;
    const head = (seconds < 0 ? minus : plus).replace(/\d.*$/, ""), separator = /\d+(\D+)30/.exec(half)[1];
    if (isLong) return head + pad(hours, /0\d/.test(plus) ? 2 : 1) + separator + pad(minutes, 2);
    return head + hours + (minutes ? separator + pad(minutes, 2) : "");
  };
  const zoneText = (table, zone, milliseconds, seconds, isLong) => {
    const isUsual = offsetOf(zone, Date.UTC(2026, 0, 5)) === seconds;
    const names = table.zoneNames[zone] || [];
    return names[(isLong ? 2 : 0) + (isUsual ? 0 : 1)] || offsetText(table, seconds, isLong);
  };
  const TYPES = { y: "year", M: "month", L: "month", d: "day", E: "weekday", c: "weekday", h: "hour", K: "hour", H: "hour", k: "hour",
    m: "minute", s: "second", S: "fractionalSecond", a: "dayPeriod", B: "dayPeriod", z: "timeZoneName", O: "timeZoneName" };
  const field = (table, letters, moment) => {
    const { date, zone, seconds, milliseconds } = moment, letter = letters[0], size = letters.length;
    const named = (index) => table.names[letters] ? table.names[letters][index] : undefined;
    const hour = date.getUTCHours(), year = date.getUTCFullYear();
    switch (letter) {
      case "y": { const shown = year > 0 ? year : 1 - year; return size === 2 ? pad(shown % 100, 2) : String(shown); }
      case "M": case "L": return named(date.getUTCMonth()) ?? pad(date.getUTCMonth() + 1, size > 2 ? 1 : size);
      case "d": return pad(date.getUTCDate(), size);
      case "E": case "c": return named(date.getUTCDay());
      case "h": return pad(hour % 12 || 12, size);
      case "K": return pad(hour % 12, size);
      case "H": return pad(hour, size);
      case "k": return pad(hour || 24, size);
      case "m": return pad(date.getUTCMinutes(), size);
      case "s": return pad(date.getUTCSeconds(), size);
      case "S": return pad(date.getUTCMilliseconds(), 3).slice(0, size);
      case "a": { const periods = table.names.a; return periods.length === 2 ? periods[hour < 12 ? 0 : 1] : periods[hour]; }
      case "B": return table.names.B[hour];
      case "z": return zoneText(table, zone, milliseconds, seconds, size === 4);
      default: return offsetText(table, seconds, size === 4);
    }
  };
  const partsOf = (table, pattern, moment) => {
    const parts = [];
    const put = (type, value) => {
      const last = parts[parts.length - 1];
      if (type === "literal" && last && last.type === "literal") last.value += value;
      else if (value !== "") parts.push({ type, value });
    };
    for (const [piece] of pattern.matchAll(/'(?:[^']|'')*'|([A-Za-z])\1*|[^A-Za-z']+/g)) {
      if (piece[0] === "'") put("literal", piece.slice(1, -1).replace(/''/g, "'"));
      else if (/[A-Za-z]/.test(piece[0])) put(TYPES[piece[0]], field(table, piece, moment));
      else put("literal", piece.replaceAll("\0", ""));  // which keeps two texts in quotes apart
    }
    return parts;
  };

  class DateTimeFormat {
    #table; #pattern; #options; #locale; #zone;
    constructor(requested, given, required = "any", defaults = "date") {
      const { locale, recorded } = resolved(requested);
      const input = given === undefined ? {} : Object(given);
      this.#options = withDefaults(checked(input), required, defaults);
      this.#zone = zoneName(input.timeZone === undefined ? null : String(input.timeZone));
      if (!this.#zone) throw new RangeError("Invalid time zone specified: " + input.timeZone);
      this.#locale = locale;
      this.#table = tableOf(recorded);
      this.#pattern = patternOf(this.#table, this.#options);
      // Programs pass the method on alone: `dates.map(format.format)`.
      Object.defineProperty(this, "format", { configurable: true, writable: true,
        // Node.js writes plain spaces here, and narrow ones in the parts.
        value: (date) => this.formatToParts(date).map((part) => part.value).join("").replace(/\u202f/g, " ") });
    }
    formatToParts(date) {
      const milliseconds = date === undefined ? Date.now() : Number(date);
      if (!Number.isFinite(milliseconds) || Math.abs(milliseconds) > 8.64e15) throw new RangeError("Invalid time value");
      const seconds = offsetOf(this.#zone, milliseconds);
      return partsOf(this.#table, this.#pattern, { date: new Date(milliseconds + seconds * 1000), milliseconds, seconds, zone: this.#zone });
    }
    resolvedOptions() {
      const result = { locale: this.#locale, calendar: "gregory", numberingSystem: "latn", timeZone: this.#zone };
      const letter = /[hHkK]/.exec(this.#pattern.replace(/'(?:[^']|'')*'/g, ""));
      if (letter) {
        result.hourCycle = Object.keys(LETTERS).find((cycle) => LETTERS[cycle] === letter[0]);
        result.hour12 = ["h11", "h12"].includes(result.hourCycle);
      }
      const { hour12, hourCycle, ...fields } = this.#options;
      return { ...result, ...fields };
    }
    static supportedLocalesOf(requested) {
      const tags = Array.isArray(requested) ? requested : [requested];
      return tags.map(canonical).filter((parts) => locales.includes(recordedFor(parts))).map((parts) => parts.join("-"));
    }
  }
  Object.defineProperty(Intl, "DateTimeFormat", { configurable: true, writable: true, enumerable: false,
    value: new Proxy(DateTimeFormat, { apply: (target, self, values) => new target(values[0], values[1]),
      construct: (target, values) => new target(values[0], values[1]) }) });
  const method = (name, required, defaults) => Object.defineProperty(Date.prototype, name, { configurable: true, writable: true,
    value: { [name](locale, options) {
      return Number.isNaN(this.getTime()) ? "Invalid Date" : new DateTimeFormat(locale, options, required, defaults).format(this);
    } }[name] });
  method("toLocaleString", "any", "all");
  method("toLocaleDateString", "date", "date");
  method("toLocaleTimeString", "time", "time");
})()
"""  # noqa: E501
