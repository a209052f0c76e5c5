import { describe, expect, test } from "vitest";
import { CHAT_WORDS } from "../src/chat/messages";
import { filled } from "../src/languages";
import { WORDS } from "../src/messages";

type Texts = [path: string, text: string][];

const textsOf = (table: object, path = ""): Texts =>
  Object.entries(table).flatMap(([name, entry]: [string, unknown]): Texts => {
    const entryPath = path ? `${path}.${name}` : name;
    return typeof entry === "string" ? [[entryPath, entry]] : textsOf(entry as object, entryPath);
  });

const placeholders = (text: string): string[] => [...new Set(text.match(/\{\w+\}/g))].sort();

describe.each([
  ["the console", WORDS],
  ["the page of an app", CHAT_WORDS],
])("the texts of %s", (_, words) => {
  const english = textsOf(words.en);
  const chinese = new Map(textsOf(words.zh));

  test("have the same names in both languages", () => {
    expect(english.length).toBeGreaterThan(40);
    expect([...chinese.keys()]).toEqual(english.map(([path]) => path));
  });

  test("have the same placeholders in both languages", () => {
    for (const [path, text] of english) expect(placeholders(chinese.get(path)!), path).toEqual(placeholders(text));
  });

  test("are not empty, and have no spaces around them", () => {
    for (const [path, text] of [...english, ...chinese]) {
      expect(text, path).toBe(text.trim());
      expect(text.length, path).toBeGreaterThan(0);
    }
  });

  test("have no Chinese characters in English", () => {
    for (const [path, text] of english) expect(text, path).not.toMatch(/\p{Script=Han}/u);
  });
});

describe("placeholders", () => {
  test("are replaced by values, however often", () => {
    expect(filled("{a} and {b}, {a}", { a: 1, b: "two" })).toBe("1 and two, 1");
  });

  test("in a value stay text", () => {
    expect(filled("{a}{b}", { a: "{b}", b: "$&" })).toBe("{b}$&");
  });

  test("without a value are empty", () => {
    expect(filled("a{missing}b", {})).toBe("ab");
  });
});
