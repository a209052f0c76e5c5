"""`fetch` for JavaScript code nodes, and the modules `http` and `https` upon it.

Requests are sent by Python in threads, over the sockets of `program_sockets`, while the
interpreter waits. Without network every request fails and says why.
"""
# This program imports nothing of ours, and the packages it uses have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import json
import queue
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_NAMES = re.compile(
    r"\b(?:fetch|Headers|FormData|AbortController|AbortSignal|https?['\"]\s*\))"
)
_MAX_REDIRECTS = 20
_MAX_BODY_BYTES = 64 << 20
_MAX_SECONDS = 600.0
_MAX_AT_ONCE = 8
# Another origin must not receive what was meant for the first.
_SECRET_HEADERS = ("authorization", "cookie", "proxy-authorization")


def is_needed(code: Any) -> Any:
    """Return whether code names something that this module defines."""
    return _NAMES.search(code) is not None


class FetchError(Exception):
    """The request failed; the message is the reason."""


class Requests:
    """The requests of one program. Only `start` and `body` are called by it."""

    def __init__(self) -> None:
        self._finished = queue.SimpleQueue()
        self._bodies = {}
        self._count = 0
        # A pool, because a program may start more requests than it may have threads.
        self._pool = ThreadPoolExecutor(_MAX_AT_ONCE)
        self.pending = 0

    def start(self, text: Any) -> Any:
        """Start a request, given as JSON, and return its number."""
        self._count += 1
        self.pending += 1
        self._pool.submit(self._run, self._count, json.loads(text))
        return self._count

    def _run(self, number: Any, request: Any) -> Any:
        """Send a request and put its result into the queue."""
        try:
            result, self._bodies[number] = send(request)
        # Whatever goes wrong is the result of this request, and of no other.
        except Exception as error:
            result = {"error": str(error) or type(error).__name__}
        self._finished.put((number, result))

    def wait(self, seconds: Any) -> Any:
        """Return (number, result as JSON) of a request that has ended; None if none does
        within the time, or at all if that is None."""
        try:
            number, result = self._finished.get(timeout=seconds)
        except queue.Empty:
            return None
        self.pending -= 1
        return number, json.dumps(result)

    def body(self, number: Any, encoding: Any) -> Any:
        """Return the body of a response, as `hex` or as text in UTF-8."""
        data = self._bodies.get(number, b"")
        if encoding == "hex":
            return data.hex()
        return data.decode("utf-8-sig", "replace")


def send(request: Any) -> Any:
    """Send a request and follow redirects. Returns (response without its body, body).

    `request` has `method`, `url`, `headers` as pairs, `body` in hexadecimal digits or
    None, and `redirect`. Raises FetchError, OSError and HTTPException.
    """
    hop = dict(request)
    for count in range(_MAX_REDIRECTS + 1):
        response, data = _send_once(hop)
        location = response.getheader("location")
        is_redirect = response.status in (301, 302, 303, 307, 308) and location
        if is_redirect and request["redirect"] == "error":
            raise FetchError("The response is a redirect")
        if not is_redirect or request["redirect"] == "manual":
            return _described(response, hop["url"], count > 0), data
        hop = _next_hop(hop, response.status, location)
    raise FetchError(f"More than {_MAX_REDIRECTS} redirects")


def _next_hop(hop: Any, status: Any, location: Any) -> Any:
    """Return the request that follows a redirect."""
    import urllib.parse

    method, headers = hop["method"], hop["headers"]
    url = urllib.parse.urljoin(hop["url"], location)
    body = hop["body"]
    # Browsers turn what they have sent into a question where they are sent on.
    if status == 303 or (status in (301, 302) and method == "POST"):
        method, body = ("HEAD" if method == "HEAD" else "GET"), None
        headers = _without(headers, ("content-type", "content-length"))
    if _origin(url) != _origin(hop["url"]):
        headers = _without(headers, _SECRET_HEADERS)
    return {"method": method, "url": url, "headers": headers, "body": body}


def _send_once(hop: Any) -> Any:
    """Send one request. Returns (response, body), the body unpacked."""
    import http.client
    import urllib.parse

    parts = urllib.parse.urlsplit(hop["url"])
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FetchError(f"Unsupported URL {hop['url'][:200]!r}")
    body = bytes.fromhex(hop["body"]) if hop["body"] is not None else None
    is_secure = parts.scheme == "https"
    client = http.client.HTTPSConnection if is_secure else http.client.HTTPConnection
    connection = client(parts.hostname, parts.port, timeout=_MAX_SECONDS)
    target = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    target += f"?{parts.query}" if parts.query else ""
    try:
        connection.request(hop["method"], target, body, _complete(hop["headers"]))
        response = connection.getresponse()
        return response, _body_of(response)
    finally:
        connection.close()


def _complete(headers: Any) -> Any:
    """Return a request's headers with those that clients send of themselves."""
    fields = {name.lower(): value for name, value in headers}
    defaults = {
        "accept": "*/*",
        "accept-encoding": "gzip, deflate",
        "user-agent": "node",
        "connection": "close",
    }
    return {**defaults, **fields}


def _body_of(response: Any) -> Any:
    """Return a response's body, unpacked. Raises FetchError if it is too large."""
    data = response.read(_MAX_BODY_BYTES + 1)
    coding = (response.getheader("content-encoding") or "").strip().lower()
    if coding in ("gzip", "x-gzip", "deflate") and data:
        # Some servers send raw deflate data, which begin with another byte.
        is_raw = coding == "deflate" and data[0] & 0x0F != 8
        unpacker = zlib.decompressobj(-15 if is_raw else 47)
        data = unpacker.decompress(data, _MAX_BODY_BYTES + 1)
    if len(data) > _MAX_BODY_BYTES:
        raise FetchError(f"The response is larger than {_MAX_BODY_BYTES:,} bytes")
    return data


def _described(response: Any, url: Any, is_redirected: Any) -> Any:
    """Return a response without its body."""
    return {
        "status": response.status,
        "statusText": response.reason,
        "url": url,
        "redirected": is_redirected,
        "headers": [[name.lower(), value] for name, value in response.getheaders()],
    }


def _origin(url: Any) -> Any:
    """Return scheme, host and port."""
    import urllib.parse

    parts = urllib.parse.urlsplit(url)
    usual = 443 if parts.scheme == "https" else 80
    return parts.scheme, parts.hostname, parts.port or usual


def _without(headers: Any, names: Any) -> Any:
    """Return headers except those of the names."""
    return [pair for pair in headers if pair[0].lower() not in names]


def install(context: Any, refusal: Any) -> Any:
    """Define the names in an interpreter that has those of `javascript_globals` and
    `javascript_modules`. Returns its requests."""
    requests = Requests()
    context.add_callable("__start", requests.start)
    context.add_callable("__body", requests.body)
    context.set("__refusal", refusal)
    # The source removes the helpers again, so that code sees only standard names.
    context.eval(_SOURCE)
    return requests


_SOURCE = r"""
(() => {
  const start = globalThis.__start, bodyOf = globalThis.__body, refusal = globalThis.__refusal;
  for (const name of ["__start", "__body", "__refusal"]) delete globalThis[name];
  const define = (name, value) => Object.defineProperty(globalThis, name,
    { value, writable: true, configurable: true, enumerable: false });
  class Headers {
    #fields = new Map();
    constructor(init) {
      const pairs = !init ? [] : typeof init[Symbol.iterator] === "function" ? [...init] : Object.entries(init);
      for (const [name, value] of pairs) this.append(name, value);
    }
    append(name, value) {
      const key = String(name).toLowerCase(), text = String(value).trim();
      if (!/^[!#$%&'*+.^_`|~0-9a-z-]+$/.test(key)) throw new TypeError("Invalid header name: " + name);
      if (/[\r\n\0]/.test(text)) throw new TypeError("Invalid value of header " + name);
      this.#fields.set(key, [...(this.#fields.get(key) || []), text]);
    }
    set(name, value) { this.delete(name); this.append(name, value); }
    get(name) { const values = this.#fields.get(String(name).toLowerCase()); return values ? values.join(", ") : null; }
    has(name) { return this.#fields.has(String(name).toLowerCase()); }
    delete(name) { this.#fields.delete(String(name).toLowerCase()); }
    getSetCookie() { return [...(this.#fields.get("set-cookie") || [])]; }
    forEach(visit) { for (const [name, value] of this) visit(value, name, this); }
    *entries() { for (const name of [...this.#fields.keys()].sort()) yield [name, this.get(name)]; }
    *keys() { for (const [name] of this) yield name; }
    *values() { for (const [, value] of this) yield value; }
    [Symbol.iterator]() { return this.entries(); }
  }
  class Blob {
    constructor(parts = [], options = {}) {
      this.type = options.type || "";
      this.bytes = Buffer.concat(parts.map((part) => part instanceof Blob ? part.bytes : Buffer.from(part)));
      Object.defineProperty(this, "bytes", { enumerable: false });
    }
    get size() { return this.bytes.length; }
    async text() { return this.bytes.toString(); }
    async arrayBuffer() { return new Uint8Array(this.bytes).buffer; }
  }
  class FormData {
    #fields = [];
    append(name, value, file) { this.#fields.push([String(name), value instanceof Blob ? value : String(value), file]); }
    set(name, value, file) { this.delete(name); this.append(name, value, file); }
    get(name) { const field = this.#fields.find((entry) => entry[0] === name); return field ? field[1] : null; }
    has(name) { return this.#fields.some((entry) => entry[0] === name); }
    delete(name) { this.#fields = this.#fields.filter((entry) => entry[0] !== name); }
    *[Symbol.iterator]() { for (const [name, value] of this.#fields) yield [name, value]; }
    entries() { return this[Symbol.iterator](); }
    encoded(boundary) {
      const quoted = (text) => String(text).replace(/"/g, "%22").replace(/\r?\n/g, "%0D%0A");
      const parts = [];
      for (const [name, value, file] of this.#fields) {
        const isFile = value instanceof Blob;
        parts.push(Buffer.from("--" + boundary + "\r\ncontent-disposition: form-data; name=\"" + quoted(name) + "\""
          + (isFile ? "; filename=\"" + quoted(file || "blob") + "\"\r\ncontent-type: " + (value.type || "application/octet-stream") : "")
          + "\r\n\r\n"), isFile ? value.bytes : Buffer.from(value), Buffer.from("\r\n"));
      }
      return Buffer.concat([...parts, Buffer.from("--" + boundary + "--\r\n")]);
    }
  }
  const abortError = (text = "This operation was aborted", name = "AbortError") => Object.assign(new Error(text), { name });
  class AbortSignal {
    aborted = false;
    reason = undefined;
    onabort = null;
    #listeners = [];
    static abort(reason = abortError()) { const signal = new AbortSignal(); signal.fire(reason); return signal; }
    static timeout(delay) {
      const signal = new AbortSignal();
      setTimeout(() => signal.fire(abortError("The operation was aborted due to timeout", "TimeoutError")), delay);
      return signal;
    }
    addEventListener(type, listener) { if (type === "abort") this.#listeners.push(listener); }
    removeEventListener(type, listener) { this.#listeners = this.#listeners.filter((other) => other !== listener); }
    throwIfAborted() { if (this.aborted) throw this.reason; }
    fire(reason) {
      if (this.aborted) return;
      this.aborted = true;
      this.reason = reason;
      const event = { type: "abort", target: this };
      for (const listener of [this.onabort, ...this.#listeners]) if (listener) listener.call(this, event);
    }
  }
  class AbortController {
    signal = new AbortSignal();
    abort(reason = abortError()) { this.signal.fire(reason); }
  }
  class Response {
    #body; #number; #isUsed = false;
    constructor(body = null, init = {}, number = 0) {
      this.status = init.status ?? 200;
      this.statusText = init.statusText ?? "";
      this.headers = new Headers(init.headers);
      this.url = init.url ?? "";
      this.redirected = init.redirected ?? false;
      this.type = "basic";
      this.#body = body;
      this.#number = number;
    }
    get ok() { return this.status >= 200 && this.status < 300; }
    get bodyUsed() { return this.#isUsed; }
    get body() { return this.#number ? {} : null; }
    #take() {
      if (this.#isUsed) throw new TypeError("Body is unusable: Body has already been read");
      this.#isUsed = true;
    }
    async text() { this.#take(); return this.#number ? bodyOf(this.#number, "text") : Buffer.from(this.#body ?? "").toString(); }
    async json() { return JSON.parse(await this.text()); }
    async bytes() {
      this.#take();
      return this.#number ? Buffer.from(bodyOf(this.#number, "hex"), "hex") : Buffer.from(this.#body ?? "");
    }
    async arrayBuffer() { return new Uint8Array(await this.bytes()).buffer; }
    async blob() { return new Blob([await this.bytes()], { type: this.headers.get("content-type") || "" }); }
    clone() { const copy = new Response(this.#body, this, this.#number); return copy; }
    static json(value, init = {}) {
      return new Response(JSON.stringify(value), { ...init, headers: { "content-type": "application/json", ...init.headers } });
    }
  }
  const encoded = (body, headers) => {
    const typed = (type, bytes) => { if (!headers.has("content-type")) headers.set("content-type", type); return bytes; };
    if (body === undefined || body === null) return null;
    if (body instanceof URLSearchParams) return typed("application/x-www-form-urlencoded;charset=UTF-8", Buffer.from(body.toString()));
    if (body instanceof FormData) {
      const boundary = "----form" + Array.from({ length: 4 }, () => Math.random().toString(36).slice(2, 10)).join("");
      return typed("multipart/form-data; boundary=" + boundary, body.encoded(boundary));
    }
    if (body instanceof Blob) return typed(body.type || "application/octet-stream", body.bytes);
    if (body instanceof ArrayBuffer) return Buffer.from(new Uint8Array(body));
    if (ArrayBuffer.isView(body)) return Buffer.from(new Uint8Array(body.buffer, body.byteOffset, body.byteLength));
    return typed("text/plain;charset=UTF-8", Buffer.from(String(body)));
  };
  const waiting = new Map();
  define("__settle", (number, text) => {
    const request = waiting.get(number);
    waiting.delete(number);
    if (!request) return;
    const result = JSON.parse(text);
    if (result.error === undefined) return request.resolve(new Response(null, result, number));
    const failed = new TypeError("fetch failed: " + result.error);
    failed.cause = new Error(result.error);
    request.reject(failed);
  });
  const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
  const fetch = (input, init = {}) => new Promise((resolve, reject) => {
    const request = typeof input === "object" && input instanceof Request ? { ...input, ...init } : init;
    const url = new URL(input instanceof Request ? input.url : String(input)).href;
    const method = String(request.method || "GET"), upper = method.toUpperCase();
    const headers = new Headers(request.headers), body = encoded(request.body, headers), signal = request.signal;
    if (body && (upper === "GET" || upper === "HEAD")) throw new TypeError("Request with GET/HEAD method cannot have body");
    if (refusal) throw new TypeError("fetch failed: " + refusal);
    if (signal && signal.aborted) throw signal.reason;
    const number = start(JSON.stringify({ method: METHODS.includes(upper) ? upper : method, url, headers: [...headers],
      body: body && body.toString("hex"), redirect: request.redirect || "follow" }));
    waiting.set(number, { resolve, reject });
    if (signal) signal.addEventListener("abort", () => { waiting.delete(number); reject(signal.reason); });
  });
  class Request {
    constructor(input, init = {}) {
      Object.assign(this, input instanceof Request ? input : { url: new URL(String(input)).href, method: "GET" }, init);
      this.headers = new Headers(this.headers);
    }
  }
  for (const [name, value] of Object.entries({ fetch, Headers, Request, Response, FormData, Blob, AbortController, AbortSignal })) define(name, value);

  class Emitter {
    #listeners = {};
    on(type, listener) { (this.#listeners[type] ||= []).push(listener); return this; }
    once(type, listener) { return this.on(type, listener); }
    addListener(type, listener) { return this.on(type, listener); }
    emit(type, ...values) { for (const listener of this.#listeners[type] || []) listener.apply(this, values); return type in this.#listeners; }
  }
  class IncomingMessage extends Emitter {
    #encoding; #data;
    constructor(response, data) {
      super();
      this.statusCode = response.status;
      this.statusMessage = response.statusText;
      this.headers = Object.fromEntries([...response.headers].map(([name, value]) =>
        [name, name === "set-cookie" ? response.headers.getSetCookie() : value]));
      this.#data = data;
    }
    setEncoding(encoding) { this.#encoding = encoding; return this; }
    resume() { return this; }
    #chunk() { return this.#encoding ? this.#data.toString(this.#encoding) : this.#data; }
    flow() {
      if (this.#data.length) this.emit("data", this.#chunk());
      this.complete = true;
      this.emit("end");
      this.emit("close");
    }
    async *[Symbol.asyncIterator]() { if (this.#data.length) yield this.#chunk(); }
  }
  class ClientRequest extends Emitter {
    #parts = []; #headers; #options; #controller = new AbortController();
    constructor(url, options, listener) {
      super();
      this.#options = { url, method: options.method || "GET" };
      this.#headers = new Headers(options.headers);
      if (options.auth) this.#headers.set("authorization", "Basic " + Buffer.from(options.auth).toString("base64"));
      if (listener) this.on("response", listener);
      if (options.timeout) this.setTimeout(options.timeout);
    }
    setHeader(name, value) { this.#headers.set(name, value); }
    setTimeout(delay, listener) {
      if (listener) this.on("timeout", listener);
      setTimeout(() => { if (!this.isDone) this.emit("timeout"); }, delay);
      return this;
    }
    write(data, encoding) { this.#parts.push(Buffer.from(data, encoding)); return true; }
    end(data, encoding) {
      if (data !== undefined && typeof data !== "function") this.write(data, encoding);
      // The length is known here, whatever the program says of it.
      this.#headers.delete("content-length");
      this.#send().then((message) => { this.isDone = true; this.emit("response", message); message.flow(); })
        .catch((error) => { this.isDone = true; this.emit("error", error.cause || error); });
      return this;
    }
    async #send() {
      const hasBody = this.#parts.length > 0 && !["GET", "HEAD"].includes(this.#options.method.toUpperCase());
      const response = await fetch(this.#options.url, { method: this.#options.method, headers: this.#headers, redirect: "manual",
        body: hasBody ? Buffer.concat(this.#parts) : undefined, signal: this.#controller.signal });
      return new IncomingMessage(response, await response.bytes());
    }
    destroy(error) { this.#controller.abort(error || Object.assign(new Error("socket hang up"), { code: "ECONNRESET" })); return this; }
    abort() { return this.destroy(); }
  }
  const client = (scheme) => {
    const request = (input, ...more) => {
      const isUrl = typeof input === "string" || input instanceof URL;
      const options = isUrl ? (typeof more[0] === "object" ? more[0] : {}) : input;
      const listener = more.find((value) => typeof value === "function");
      const host = options.hostname || (options.host || "localhost").replace(/:\d+$/, "");
      const url = isUrl ? String(input) : (options.protocol || scheme) + "//" + host
        + (options.port ? ":" + options.port : "") + (options.path || "/");
      return new ClientRequest(url, options, listener);
    };
    return { request, get: (...values) => request(...values).end(), Agent: class Agent {} };
  };
  Object.assign(require.modules, { http: () => client("http:"), https: () => client("https:") });
})()
"""  # noqa: E501
