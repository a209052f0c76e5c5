// What the console's modules need of a browser when they are loaded, for tests in Node.
import { afterEach, vi } from "vitest";

export const ORIGIN = "http://console.test";

class MemoryStorage {
  readonly #items = new Map<string, string>();
  getItem(key: string): string | null {
    return this.#items.get(key) ?? null;
  }
  setItem(key: string, value: string) {
    this.#items.set(key, value);
  }
  removeItem(key: string) {
    this.#items.delete(key);
  }
}

// Node has no page, so it cannot resolve an address that is relative to one.
class PageRequest extends Request {
  constructor(input: RequestInfo | URL, init?: RequestInit) {
    super(typeof input === "string" ? new URL(input, ORIGIN) : input, init);
  }
}

const page = new URL("/chat/app-token", ORIGIN);
vi.stubGlobal("location", { href: page.href, pathname: page.pathname, search: "", hash: "" });
vi.stubGlobal("Request", PageRequest);
vi.stubGlobal("sessionStorage", new MemoryStorage());
vi.stubGlobal("localStorage", new MemoryStorage());
vi.stubGlobal("history", { replaceState: () => undefined });
// A frame never comes by itself: what is drawn at the end of a stream must not depend on it.
vi.stubGlobal("requestAnimationFrame", () => 1);
vi.stubGlobal("cancelAnimationFrame", () => undefined);

afterEach(() => {
  vi.restoreAllMocks();
});
