import { createElement } from "react";
import { renderToStaticMarkup } from "react-dom/server";
import { describe, expect, test } from "vitest";
import { Markdown } from "../src/markdown";
import { Random, seeds } from "./random";

const draw = (text: string) => renderToStaticMarkup(createElement(Markdown, { text }));

const TAGS = new Set(
  "div p h1 h2 h3 h4 h5 h6 ul ol li blockquote pre code strong em s a table thead tbody tr th td hr br button".split(
    " ",
  ),
);
const tagsOf = (html: string) => [...html.matchAll(/<\/?([a-z0-9]+)/g)].map((match) => match[1]!);

const PIECES = [
  "# Title\n", "text ", "**bold**", "*leaning*", "`code`", "```js\ncode\n```\n", "\n\n", "- item\n", "  - inner\n",
  "1. first\n", "> quote\n", "| a | b |\n|---|---|\n| 1 | 2 |\n", "---\n", "[name](https://example.com)",
  "[bad](javascript:alert(1))", "<script>alert(1)</script>", "~~gone~~", "https://example.com/a?b=c", "世界", "**", "```\n",
]; // biome-ignore format: one kind of text after the other

describe("text of a model", () => {
  test("has only elements that are known, whatever it says", () => {
    for (const seed of seeds(300)) {
      const random = new Random(seed);
      const text = random.list(20, () => random.pick(PIECES)).join("");
      const html = draw(text);
      for (const tag of tagsOf(html)) expect(TAGS, `seed ${seed}: ${text}`).toContain(tag);
      expect(html, `seed ${seed}`).not.toMatch(/href="javascript/i);
    }
  });

  test("can be drawn while it is written", () => {
    const text = PIECES.join("");
    for (let length = 0; length <= text.length; length++) expect(() => draw(text.slice(0, length))).not.toThrow();
  });

  test("that looks like HTML is shown as text", () => {
    expect(draw('<img src=x onerror="alert(1)">')).toContain("&lt;img src=x");
  });

  test.each([
    ["**a** *b* ~~c~~ `d`", ["<strong>a</strong>", "<em>b</em>", "<s>c</s>", "<code>d</code>"]],
    ["[site](https://example.com)", ['<a href="https://example.com/"', ">site</a>"]],
    ["[x](javascript:alert(1))", ["x"]],
    ["> outer\n> > inner", ["<blockquote>", "inner"]],
    ["| a | b |\n|---|---|\n| 1 | 2 |", ["<th>a</th>", "<td>2</td>"]],
    ["- one\n- two", ["<li>", "two"]],
  ])("%j is drawn", (text, expected) => {
    const html = draw(text);
    for (const fragment of expected) expect(html).toContain(fragment);
  });
});
