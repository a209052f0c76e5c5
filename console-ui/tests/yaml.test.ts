import { describe, expect, test } from "vitest";
// The server's tests read the same file.
import SCALARS from "../../tests/data/yaml-scalars.json";
import { blankWorkflow } from "../src/canvas/templates";
import { readYaml, writeYaml, yamlDocument } from "../src/yaml";
import { Random, seeds } from "./random";

const VALUES = SCALARS.values as [text: string, value: unknown][];

describe("values", () => {
  test.each(VALUES)("%j is read as the server reads it", (text, value) => {
    expect(readYaml(`a: ${text}`)).toEqual({ a: value });
    expect(readYaml(`- ${text}`)).toEqual([value]);
  });

  test.each(VALUES)("%j is the same once it is written", (text) => {
    const value = readYaml(`a: ${text}`);
    expect(readYaml(writeYaml(value))).toEqual(value);
    // A document that is edited elsewhere keeps it to the letter.
    const document = yamlDocument(`a: ${text}\nb: 1 # why\n`);
    document.set("b", 2);
    expect(document.toString()).toContain(`a: ${text}`.trimEnd());
    expect(document.toString()).toContain("# why");
  });

  test.each(SCALARS.texts)("%j is written in quotes as a text", (text) => {
    expect(writeYaml({ a: text })).toMatch(/^a: (["']).*\1\n$/);
    expect(readYaml(writeYaml({ a: text, [text]: [text] }))).toEqual({ a: text, [text]: [text] });
    const document = yamlDocument("a: x\n");
    document.set("a", text);
    expect(document.toString()).toMatch(/^a: (["']).*\1\n$/);
  });

  // By version 1.1 these end a line, are no characters, or stand where a block is indented.
  test.each([
    "a\u0085b",
    "a\u2028b",
    "\ufeffa",
    "a\u0007",
    "\u007f",
    "a\rb",
    "\tif x:\n\t\ty",
    "\n \tx\n",
    " \n",
    "<<",
  ])("%j is written with escapes", (text) => {
    const written = writeYaml({ a: text });
    expect(written).toMatch(/^a: "[ -~]*"\n$/);
    expect(readYaml(written)).toEqual({ a: text });
  });

  test("are characters, and no halves of them", () => {
    expect(readYaml(writeYaml({ a: "😀\ud800x" }))).toEqual({ a: "😀\ufffdx" });
  });

  test("of any kind are the same once they are written", () => {
    const alphabet = [
      "0",
      "1",
      "7",
      "9",
      "_",
      ":",
      ".",
      "-",
      "+",
      "e",
      "E",
      "x",
      "b",
      "o",
      "y",
      "n",
      "~",
      "=",
      "<",
      " ",
      "#",
      "ü",
    ];
    for (const seed of seeds(400)) {
      const random = new Random(seed);
      const text = random.list(9, () => random.pick(alphabet)).join("");
      const number = (random.next() - 0.5) * 10 ** random.integer(-30, 30);
      const value = { text, number, whole: Math.round(number) + 0, nested: [{ text }] };
      expect(readYaml(writeYaml(value)), `seed ${seed}`).toEqual(value);
    }
  });

  test("that repeat are written out, and merged ones are there", () => {
    const shared = { a: 1 };
    expect(writeYaml([shared, shared])).toBe("- a: 1\n- a: 1\n");
    expect(readYaml("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}")).toEqual({ x: { a: 1, b: 2 }, y: { a: 1, b: 3 } });
  });
});

test("an app keeps its name, whatever that looks like", () => {
  for (const name of SCALARS.texts.filter(Boolean))
    expect(readYaml(blankWorkflow(name, "workflow"))).toMatchObject({ app: { name } });
});
