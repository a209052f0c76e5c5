"""More of what JavaScript code nodes use: `URL`, numbers as people write them, random
values, hashes, and `require` of a short list of modules.

All but hashes and random bytes is written in JavaScript and runs inside the interpreter.
Those two are computed by Python on what the code passes, and reach nothing else.
"""

import hashlib
import hmac
import re
import secrets
from typing import Any

_NAMES = re.compile(r"\b(?:URL|Intl|toLocaleString|crypto|require)\b")
# The limit of `crypto.getRandomValues` in browsers.
_MAX_RANDOM = 65_536
_ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")


def is_needed(code: Any) -> Any:
    """Return whether code names something that this module defines."""
    # Most code uses none of the names, and is spared the time to define them.
    return _NAMES.search(code) is not None


def install(context: Any) -> None:
    """Define the names in an interpreter that has those of `javascript_globals`."""
    context.add_callable("__random", _random)
    context.add_callable("__digest", _digest)
    # The source removes both helpers again, so that code sees only standard names.
    context.eval(_SOURCE)


def _random(count: Any) -> Any:
    """Return random bytes as hexadecimal digits."""
    return secrets.token_hex(max(0, min(int(count), _MAX_RANDOM)))


def _digest(algorithm: Any, data: Any, key: Any) -> Any:
    """Return a hash of hexadecimal digits as such, keyed if there is a key; an empty
    text for an unknown algorithm."""
    # Programs write `sha256` as well as `SHA-256`.
    name = str(algorithm).lower().replace("-", "")
    if name not in _ALGORITHMS:
        return ""
    content = bytes.fromhex(data)
    if key is None:
        # Machines in FIPS mode refuse MD5 otherwise; here only the code's author
        # decides what a hash is for.
        return hashlib.new(name, content, usedforsecurity=False).hexdigest()
    return hmac.new(bytes.fromhex(key), content, name).hexdigest()


_SOURCE = r"""
(() => {
  const random = globalThis.__random, digest = globalThis.__digest;
  delete globalThis.__random;
  delete globalThis.__digest;
  const define = (name, value) => Object.defineProperty(globalThis, name,
    { value, writable: true, configurable: true, enumerable: false });
  const PORTS = { "http:": "80", "https:": "443", "ftp:": "21", "ws:": "80", "wss:": "443" };
  const PARTS = /^([a-z][a-z0-9+.-]*:)(?:\/\/(?:([^\/?#@:]*)(?::([^\/?#@]*))?@)?(\[[^\]\/?#]*\]|[^\/?#:]*)(?::(\d*))?)?([^?#]*)(\?[^#]*)?(#.*)?$/i;
  const encodePath = (text) => encodeURI(text).replace(/%25/g, "%").replace(/%5B/g, "[").replace(/%5D/g, "]").replace(/%7C/g, "|");
  const withoutDots = (path) => {
    const kept = [], parts = path.split("/");
    parts.forEach((part, at) => {
      const isLast = at === parts.length - 1;
      if (part === "..") { if (kept.length > 1) kept.pop(); if (isLast) kept.push(""); }
      else if (part === ".") { if (isLast) kept.push(""); }
      else kept.push(part);
    });
    return kept.join("/");
  };
  const resolved = (text, base) => {
    if (/^[a-z][a-z0-9+.-]*:/i.test(text)) return text;
    if (base === undefined) throw new TypeError("Invalid URL: " + text);
    const root = new URL(base);
    if (text.startsWith("//")) return root.protocol + text;
    const origin = root.protocol + "//" + (root.username ? root.username + (root.password ? ":" + root.password : "") + "@" : "") + root.host;
    if (text.startsWith("/")) return origin + text;
    if (text === "") return origin + root.pathname + root.search;
    if (text.startsWith("?")) return origin + root.pathname + text;
    if (text.startsWith("#")) return origin + root.pathname + root.search + text;
    return origin + root.pathname.replace(/[^\/]*$/, "") + text;
  };
  class URL {
    constructor(url, base) {
      const text = String(url).trim(), parts = PARTS.exec(resolved(text, base));
      if (!parts) throw new TypeError("Invalid URL: " + text);
      this.protocol = parts[1].toLowerCase();
      const isWeb = this.protocol in PORTS;
      if (isWeb && !parts[4]) throw new TypeError("Invalid URL: " + text);
      this.username = parts[2] || "";
      this.password = parts[3] || "";
      this.hostname = isWeb ? (parts[4] || "").toLowerCase() : parts[4] || "";
      this.port = parts[5] && parts[5] !== PORTS[this.protocol] ? String(Number(parts[5])) : "";
      if (Number(this.port) > 65535) throw new TypeError("Invalid URL: " + text);
      this.pathname = isWeb ? withoutDots(encodePath(parts[6] || "/")) : parts[6];
      this.hash = parts[8] && parts[8] !== "#" ? encodePath(parts[8]) : "";
      this.searchParams = new URLSearchParams(parts[7] || "");
      this.given = parts[7] && parts[7] !== "?" ? encodePath(parts[7]) : "";
      this.first = this.searchParams.toString();
      this.isWeb = isWeb || parts[4] !== undefined;
      for (const name of ["given", "first", "isWeb"]) Object.defineProperty(this, name, { enumerable: false });
    }
    static canParse(url, base) { try { new URL(url, base); return true; } catch (error) { return false; } }
    get host() { return this.hostname + (this.port && ":" + this.port); }
    get origin() { return this.protocol in PORTS ? this.protocol + "//" + this.host : "null"; }
    get search() {
      const now = this.searchParams.toString();
      return now === this.first ? this.given : now && "?" + now;
    }
    set search(text) {
      const query = String(text).replace(/^\?/, "");
      this.searchParams = new URLSearchParams(query);
      this.first = this.searchParams.toString();
      this.given = query && "?" + encodePath(query);
    }
    get href() {
      const user = this.username && this.username + (this.password && ":" + this.password) + "@";
      return this.protocol + (this.isWeb ? "//" + user + this.host : "") + this.pathname + this.search + this.hash;
    }
    toString() { return this.href; }
    toJSON() { return this.href; }
  }
  define("URL", URL);
  const SIGNS = { de: [".", ","], es: [".", ","], it: [".", ","], pt: [".", ","], nl: [".", ","], id: [".", ","], tr: [".", ","],
    fr: ["\u202f", ","], ru: ["\u00a0", ","], pl: ["\u00a0", ","], cs: ["\u00a0", ","], sv: ["\u00a0", ","], fi: ["\u00a0", ","] };
  const CURRENCIES = { USD: "$", EUR: "€", GBP: "£", JPY: "¥", CNY: "¥", INR: "₹", KRW: "₩" };
  class NumberFormat {
    constructor(locale, options = {}) {
      this.language = String((Array.isArray(locale) ? locale[0] : locale) || "en").toLowerCase().split("-")[0];
      this.options = options;
    }
    format(value) {
      const number = Number(value), options = this.options;
      if (Number.isNaN(number)) return "NaN";
      const isPercent = options.style === "percent", isMoney = options.style === "currency";
      const usual = isPercent ? 0 : isMoney ? (["JPY", "KRW"].includes(options.currency) ? 0 : 2) : undefined;
      const least = options.minimumFractionDigits ?? usual ?? 0;
      const most = Math.max(least, options.maximumFractionDigits ?? usual ?? 3);
      const size = Math.abs(number) * (isPercent ? 100 : 1);
      if (size === Infinity) return number < 0 ? "-∞" : "∞";
      let [whole, decimals = ""] = (size < 1e21 ? size.toFixed(most) : BigInt(Math.round(size)).toString()).split(".");
      while (decimals.length > least && decimals.endsWith("0")) decimals = decimals.slice(0, -1);
      const [group, point] = SIGNS[this.language] || [",", "."];
      whole = whole.padStart(options.minimumIntegerDigits || 1, "0");
      const isShort = whole.length < 5 && ["es", "pl", "pt"].includes(this.language);
      if (options.useGrouping !== false && !isShort) whole = whole.replace(/\B(?=(\d{3})+$)/g, group);
      const text = whole + (decimals && point + decimals);
      const sign = number < 0 ? "-" : "";
      const isBehind = this.language in SIGNS;
      if (isPercent) return sign + text + (isBehind ? "\u00a0%" : "%");
      if (!isMoney) return sign + text;
      const mark = CURRENCIES[options.currency] || options.currency;
      return isBehind ? sign + text + "\u00a0" + mark : sign + mark + (mark.length > 1 ? "\u00a0" : "") + text;
    }
  }
  define("Intl", { NumberFormat: new Proxy(NumberFormat, { apply: (target, self, values) => new target(...values) }) });
  Object.defineProperty(Number.prototype, "toLocaleString", { configurable: true, writable: true,
    value: function toLocaleString(locale, options) { return new NumberFormat(locale, options).format(this); } });
  const toHex = (data) => Buffer.from(data).toString("hex");
  const randomBytes = (count) => Buffer.from(random(count), "hex");
  const randomUUID = () => {
    const bytes = randomBytes(16);
    bytes[6] = bytes[6] & 15 | 64;
    bytes[8] = bytes[8] & 63 | 128;
    return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
  };
  const getRandomValues = (array) => {
    new Uint8Array(array.buffer, array.byteOffset, array.byteLength).set(randomBytes(array.byteLength));
    return array;
  };
  const hash = (algorithm, key) => {
    const parts = [];
    return {
      update(data, encoding) { parts.push(Buffer.from(data, encoding)); return this; },
      digest(encoding) {
        const digits = digest(algorithm, Buffer.concat(parts).toString("hex"), key);
        if (!digits) throw new Error("Digest method not supported: " + algorithm);
        const bytes = Buffer.from(digits, "hex");
        return encoding === undefined ? bytes : bytes.toString(encoding);
      },
    };
  };
  define("crypto", { randomUUID, getRandomValues });
  const toQuery = (text) => Object.fromEntries(new URLSearchParams(text).entries());
  const MODULES = {
    buffer: () => ({ Buffer }),
    crypto: () => ({ randomUUID, randomBytes, getRandomValues, createHash: (algorithm) => hash(algorithm, null),
      createHmac: (algorithm, key) => hash(algorithm, toHex(key)) }),
    querystring: () => ({ parse: toQuery, decode: toQuery, escape: encodeURIComponent, unescape: decodeURIComponent,
      stringify: (fields) => new URLSearchParams(fields).toString() }),
    url: () => ({ URL, URLSearchParams, parse: (text) => new URL(text) }),
    util: () => ({ inspect: (value) => typeof value === "string" ? "'" + value + "'" : JSON.stringify(value),
      isDeepStrictEqual: (one, other) => JSON.stringify(one) === JSON.stringify(other),
      promisify: (work) => (...values) => new Promise((done, failed) =>
        work(...values, (error, value) => error ? failed(error) : done(value))) }),
  };
  define("require", (name) => {
    const known = String(name).replace(/^node:/, "");
    if (!Object.hasOwn(MODULES, known)) {
      throw new ReferenceError("Module '" + name + "' is not available in code nodes; these are: " + Object.keys(MODULES).join(", "));
    }
    return MODULES[known]();
  });
  // Further modules are added to these.
  Object.defineProperty(require, "modules", { value: MODULES });
})()
"""  # noqa: E501
