"""Globals of Node.js and browsers that JavaScript code nodes use and QuickJS lacks.

The objects are written in JavaScript and run inside the interpreter, so that they give
code nothing that it could not write itself. `process` is left out: it stands for what
the sandbox keeps away.
"""

import re
from typing import Any

_NAMES = re.compile(
    r"\b(?:Buffer|atob|btoa|TextEncoder|TextDecoder|URLSearchParams|structuredClone"
    r"|setTimeout|setInterval|clearTimeout|clearInterval|setImmediate"
    r"|queueMicrotask)\b"
)


def is_needed(code: Any) -> Any:
    """Return whether code names one of the globals."""
    # Defining the globals takes time, which most code can be spared.
    return _NAMES.search(code) is not None


SOURCE = r"""
(() => {
  const define = (name, value) => Object.defineProperty(globalThis, name,
    { value, writable: true, configurable: true, enumerable: false });
  const toBytes = (text) => {
    const bytes = [];
    for (const char of String(text)) {
      let code = char.codePointAt(0);
      if (code >= 0xd800 && code <= 0xdfff) code = 0xfffd;
      if (code < 0x80) bytes.push(code);
      else if (code < 0x800) bytes.push(0xc0 | code >> 6, 0x80 | code & 63);
      else if (code < 0x10000) bytes.push(0xe0 | code >> 12, 0x80 | code >> 6 & 63, 0x80 | code & 63);
      else bytes.push(0xf0 | code >> 18, 0x80 | code >> 12 & 63, 0x80 | code >> 6 & 63, 0x80 | code & 63);
    }
    return bytes;
  };
  const toText = (bytes) => {
    const parts = [];
    for (let at = 0; at < bytes.length;) {
      const first = bytes[at++];
      const more = first < 0x80 ? 0 : first >= 0xc2 && first < 0xe0 ? 1
        : first >= 0xe0 && first < 0xf0 ? 2 : first >= 0xf0 && first < 0xf5 ? 3 : -1;
      let code = more < 1 ? first : first & 0x3f >> more, read = 0;
      while (read < more && (bytes[at] & 0xc0) === 0x80) { code = code << 6 | bytes[at++] & 63; read++; }
      const isWhole = more === 0 || read === more && code >= [0, 0x80, 0x800, 0x10000][more]
        && code < 0x110000 && !(code >= 0xd800 && code <= 0xdfff);
      parts.push(isWhole ? String.fromCodePoint(code) : "\ufffd");
    }
    return parts.join("");
  };
  const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const toBase64 = (bytes) => {
    const parts = [];
    for (let at = 0; at < bytes.length; at += 3) {
      const three = bytes[at] << 16 | (bytes[at + 1] || 0) << 8 | (bytes[at + 2] || 0);
      parts.push(DIGITS[three >> 18] + DIGITS[three >> 12 & 63]
        + (at + 1 < bytes.length ? DIGITS[three >> 6 & 63] : "=")
        + (at + 2 < bytes.length ? DIGITS[three & 63] : "="));
    }
    return parts.join("");
  };
  const fromBase64 = (text) => {
    const bytes = [];
    let bits = 0, count = 0;
    for (const char of String(text)) {
      if (char === "=") break;
      const digit = DIGITS.indexOf(char === "-" ? "+" : char === "_" ? "/" : char);
      if (digit < 0) continue;
      bits = (bits << 6 | digit) & 0xffffff; count += 6;
      if (count >= 8) { count -= 8; bytes.push(bits >> count & 255); }
    }
    return bytes;
  };
  const decodeText = (text, encoding) => {
    switch (String(encoding || "utf8").toLowerCase()) {
      case "utf8": case "utf-8": return toBytes(text);
      case "base64": case "base64url": return fromBase64(text);
      case "hex": return (String(text).match(/^(?:[0-9a-f]{2})*/i)[0].match(/../g) || []).map((pair) => parseInt(pair, 16));
      case "latin1": case "binary": case "ascii": return Array.from(String(text), (char) => char.charCodeAt(0) & 255);
      default: throw new TypeError("Unknown encoding: " + encoding);
    }
  };
  class Buffer extends Uint8Array {
    static from(value, encoding) {
      if (typeof value === "string") return new Buffer(decodeText(value, encoding));
      if (value && value.type === "Buffer") return new Buffer(value.data);
      return new Buffer(value);
    }
    static alloc(size, fill) { return new Buffer(size).fill(fill || 0); }
    static allocUnsafe(size) { return new Buffer(size); }
    static isBuffer(value) { return value instanceof Buffer; }
    static byteLength(text, encoding) {
      return typeof text === "string" ? decodeText(text, encoding).length : text.byteLength;
    }
    static concat(buffers) {
      const whole = new Buffer(buffers.reduce((sum, part) => sum + part.length, 0));
      let at = 0;
      for (const part of buffers) { whole.set(part, at); at += part.length; }
      return whole;
    }
    toString(encoding, start = 0, end = this.length) {
      const bytes = this.subarray(start, end);
      switch (String(encoding || "utf8").toLowerCase()) {
        case "utf8": case "utf-8": return toText(bytes);
        case "base64": return toBase64(bytes);
        case "base64url": return toBase64(bytes).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
        case "hex": return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
        case "latin1": case "binary": return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
        case "ascii": return Array.from(bytes, (byte) => String.fromCharCode(byte & 127)).join("");
        default: throw new TypeError("Unknown encoding: " + encoding);
      }
    }
    toJSON() { return { type: "Buffer", data: Array.from(this) }; }
    equals(other) { return this.length === other.length && this.every((byte, at) => byte === other[at]); }
  }
  define("Buffer", Buffer);
  define("btoa", (text) => {
    const codes = Array.from(String(text), (char) => char.charCodeAt(0));
    if (codes.some((code) => code > 255)) throw new RangeError("btoa: characters beyond Latin-1");
    return toBase64(codes);
  });
  define("atob", (text) => fromBase64(text).map((byte) => String.fromCharCode(byte)).join(""));
  define("TextEncoder", class TextEncoder {
    get encoding() { return "utf-8"; }
    encode(text = "") { return new Uint8Array(toBytes(text)); }
  });
  define("TextDecoder", class TextDecoder {
    constructor(label = "utf-8") {
      if (!/^utf-?8$/i.test(label)) throw new RangeError("TextDecoder: only UTF-8 is supported");
    }
    get encoding() { return "utf-8"; }
    decode(bytes = []) {
      const text = toText(bytes instanceof ArrayBuffer ? new Uint8Array(bytes) : bytes);
      return text.startsWith("\ufeff") ? text.slice(1) : text;
    }
  });
  define("URLSearchParams", class URLSearchParams {
    constructor(init = "") {
      const decode = (text) => toText(fromPercent(text.replace(/\+/g, " ")));
      if (typeof init === "string") {
        this.pairs = init.replace(/^\?/, "").split("&").filter(Boolean).map((pair) => {
          const at = pair.indexOf("=");
          return at < 0 ? [decode(pair), ""] : [decode(pair.slice(0, at)), decode(pair.slice(at + 1))];
        });
      } else {
        const entries = init && typeof init[Symbol.iterator] === "function" ? [...init] : Object.entries(init || {});
        this.pairs = entries.map(([name, value]) => [String(name), String(value)]);
      }
    }
    append(name, value) { this.pairs.push([String(name), String(value)]); }
    delete(name) { this.pairs = this.pairs.filter((pair) => pair[0] !== name); }
    get(name) { const pair = this.pairs.find((entry) => entry[0] === name); return pair ? pair[1] : null; }
    getAll(name) { return this.pairs.filter((pair) => pair[0] === name).map((pair) => pair[1]); }
    has(name) { return this.pairs.some((pair) => pair[0] === name); }
    set(name, value) {
      const at = this.pairs.findIndex((pair) => pair[0] === name);
      if (at < 0) return this.append(name, value);
      this.pairs = this.pairs.filter((pair, index) => index <= at || pair[0] !== name);
      this.pairs[at][1] = String(value);
    }
    forEach(visit) { for (const [name, value] of this.pairs) visit(value, name, this); }
    keys() { return this.pairs.map((pair) => pair[0])[Symbol.iterator](); }
    values() { return this.pairs.map((pair) => pair[1])[Symbol.iterator](); }
    entries() { return this.pairs[Symbol.iterator](); }
    [Symbol.iterator]() { return this.entries(); }
    toString() {
      const encode = (text) => encodeURIComponent(text).replace(/%20/g, "+")
        .replace(/[!'()~]/g, (char) => "%" + char.charCodeAt(0).toString(16).toUpperCase());
      return this.pairs.map(([name, value]) => encode(name) + "=" + encode(value)).join("&");
    }
  });
  const fromPercent = (text) => {
    const bytes = [];
    for (let at = 0; at < text.length; at++) {
      const pair = text[at] === "%" ? /^[0-9a-f]{2}$/i.exec(text.slice(at + 1, at + 3)) : null;
      if (pair) { bytes.push(parseInt(pair[0], 16)); at += 2; }
      else { const char = String.fromCodePoint(text.codePointAt(at)); bytes.push(...toBytes(char)); at += char.length - 1; }
    }
    return bytes;
  };
  define("structuredClone", (value) => value === undefined ? undefined : JSON.parse(JSON.stringify(value)));
  define("queueMicrotask", (work) => { Promise.resolve().then(work); });
  // Nothing waits here: timers run in the order of their times once nothing else is left.
  // Only requests take time, by which the clock of the timers then moves on.
  const timers = [];
  let lastTimer = 0, clock = 0;
  const later = (work, delay, values) => {
    const timer = { id: ++lastTimer, time: clock + Math.max(0, Number(delay) || 0), work, values };
    const at = timers.findIndex((other) => other.time > timer.time);
    timers.splice(at < 0 ? timers.length : at, 0, timer);
    return timer.id;
  };
  const cancel = (id) => {
    const at = timers.findIndex((timer) => timer.id === id);
    if (at >= 0) timers.splice(at, 1);
  };
  define("setTimeout", (work, delay, ...values) => later(work, delay, values));
  define("setImmediate", (work, ...values) => later(work, 0, values));
  define("clearTimeout", cancel);
  define("clearInterval", cancel);
  define("setInterval", () => { throw new Error("setInterval is not available in code nodes"); });
  define("__runTimer", () => {
    const timer = timers.shift();
    if (timer) { clock = Math.max(clock, timer.time); timer.work(...timer.values); }
    return timer !== undefined;
  });
  define("__timerDelay", () => timers.length ? Math.max(0, timers[0].time - clock) : -1);
  define("__passTime", (milliseconds) => { clock += milliseconds; });
})()
"""  # noqa: E501
