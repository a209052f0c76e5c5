import { describe, expect, test } from "vitest";
import { type DifferenceLine, difference } from "../../src/canvas/difference";
import { Random, seeds } from "../random";

const plain = (lines: DifferenceLine[]) => lines.map((line) => line.sign + line.text);

describe("the difference of two texts", () => {
  test("of the same text is empty but for its end", () => {
    expect(difference("a\nb", "a\nb").filter((line) => line.sign !== " ")).toEqual([]);
  });

  test("has three lines around each change", () => {
    const before = "1\n2\n3\n4\n5\n6\n7\n8\n9";
    expect(plain(difference(before, before.replace("5", "five")))).toEqual([" 2", " 3", " 4", "-5", "+five"]);
  });

  test("between changes leaves out what is far from both", () => {
    const before = "a\n1\n2\n3\n4\n5\n6\n7\n8\nb";
    const after = before.replace("a", "A").replace("b", "B");
    expect(plain(difference(before, after))).toEqual(["-a", "+A", " 1", " 2", " 3", " 6", " 7", " 8", "-b", "+B"]);
  });

  test("has no more changes than a wise reader would find", () => {
    expect(plain(difference("a\nb\nc\nd", "b\nx\nc\nd"))).toEqual(["-a", " b", "+x"]);
  });

  test("has all removed and all added lines, in their order", () => {
    for (const seed of seeds(300)) {
      const random = new Random(seed);
      const randomText = () => random.list(12, () => random.pick(["a", "b", "c", ""])).join("\n");
      const before = randomText();
      const after = randomText();
      const lines = difference(before, after);
      const removed = lines.filter((line) => line.sign === "-").length;
      const added = lines.filter((line) => line.sign === "+").length;
      const lengthDifference = after.split("\n").length - before.split("\n").length;
      expect(added - removed, `seed ${seed}`).toBe(lengthDifference);
      expect(isSubsequence(side(lines, "-"), before.split("\n")), `seed ${seed}`).toBe(true);
      expect(isSubsequence(side(lines, "+"), after.split("\n")), `seed ${seed}`).toBe(true);
    }
  });

  test("of texts that are too large is all of both", () => {
    const numbered = (name: string) => Array.from({ length: 2100 }, (_, index) => `${name} ${index}`).join("\n");
    const lines = difference(`same\n${numbered("old")}`, `same\n${numbered("new")}`);
    expect(lines.length).toBe(4200);
    expect(lines[0]).toEqual({ sign: "-", text: "old 0" });
    expect(lines.at(-1)).toEqual({ sign: "+", text: "new 2099" });
  });
});

const side = (lines: DifferenceLine[], sign: "+" | "-"): string[] =>
  lines.filter((line) => line.sign === " " || line.sign === sign).map((line) => line.text);

const isSubsequence = (part: string[], whole: string[]): boolean => {
  let index = 0;
  for (const line of whole) if (index < part.length && line === part[index]) index++;
  return index === part.length;
};
