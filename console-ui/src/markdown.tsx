// What models write, as elements. Nothing is ever set as HTML: whatever a text holds, it is shown as text.
import { createElement, Fragment, memo, type ReactNode } from "react";

// biome-ignore format: one alternative after the other, in the order of the groups below
const INLINE =
  /(`+)([\s\S]*?[^`])\1(?!`)|\*\*([\s\S]+?)\*\*|__([\s\S]+?)__|\*(?!\s)([^*\n]+?)\*|(?<!\w)_(?!\s)([^_\n]+?)_(?!\w)|~~([\s\S]+?)~~|!?\[([^\]\n]*)\]\((\S+?)(?:\s+"[^"]*")?\)|(https?:\/\/[^\s<>"')\]]+)/;
const BEGINS = /^(```|~~~|#{1,6}\s|>\s?|\s*([-*+]|\d+[.)])\s|\s*([-*_])(\s*\3){2,}\s*$)/;
const FENCE = /^(```+|~~~+)(.*)$/;
const HEADING = /^(#{1,6})\s+(.*?)#*$/;
const RULE = /^\s*([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^>\s?/;
const BULLET = /^(\s*)([-*+]|\d+[.)])\s+(.*)$/;
const BULLETED = /^\s*([-*+]|\d+[.)])\s/;
const UNDER_HEADS = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)+\|?\s*$/;

// Quotes within quotes; whoever writes more of them reads them as text.
const MAX_QUOTES = 20;

// Elements that stand in a row for good have no name but their place.
const row = (parts: ReactNode[]) => parts.map((part, index) => <Fragment key={index}>{part}</Fragment>);

export const urlOf = (address: string): URL | null => {
  try {
    return new URL(address, location.href);
  } catch {
    return null;
  }
};

const link = (address: string, text: string): ReactNode => {
  const url = urlOf(address);
  if (!url || !["http:", "https:", "mailto:"].includes(url.protocol)) return text;
  return (
    <a href={url.href} target="_blank" rel="noopener noreferrer nofollow">
      {text}
    </a>
  );
};

const inline = (text: string): ReactNode => {
  const parts: ReactNode[] = [];
  let rest = text;
  while (rest) {
    const match = INLINE.exec(rest);
    if (!match) {
      parts.push(rest);
      break;
    }
    if (match.index) parts.push(rest.slice(0, match.index));
    const [whole, , code, bold, bold2, italic, italic2, struck, label, address, bare] = match;
    const strong = bold ?? bold2;
    const leaning = italic ?? italic2;
    if (code !== undefined) parts.push(<code>{code.trim()}</code>);
    else if (strong) parts.push(<strong>{inline(strong)}</strong>);
    else if (leaning) parts.push(<em>{inline(leaning)}</em>);
    else if (struck) parts.push(<s>{inline(struck)}</s>);
    else if (address !== undefined) parts.push(link(address, label || address));
    else if (bare !== undefined) parts.push(link(bare, bare));
    rest = rest.slice(match.index + whole.length);
  }
  return row(parts);
};

const cells = (line: string) =>
  line
    .trim()
    .replace(/^\||\|$/g, "")
    .split("|")
    .map((cell) => cell.trim());

const depth = (line: string) => line.length - line.trimStart().length;

// What begins at a line, and the line after it.
interface Block {
  part: ReactNode;
  next: number;
}

const list = (lines: string[], from: number): Block => {
  const first = lines[from] ?? "";
  const entries: ReactNode[][] = [];
  let at = from;
  for (let line = lines[at]; line !== undefined; line = lines[at]) {
    const bullet = BULLET.exec(line);
    const last = entries.at(-1);
    if (bullet && last && depth(line) > depth(first) + 1) {
      const within = list(lines, at);
      last.push(within.part);
      at = within.next;
    } else if (bullet && depth(line) >= depth(first) - 1) {
      entries.push([inline(bullet[3] ?? "")]);
      at += 1;
    } else if (!bullet && line.trim() && depth(line) > depth(first) && last) {
      last.push(" ", inline(line.trim()));
      at += 1;
    } else break;
  }
  const children = entries.map((entry, index) => <li key={index}>{row(entry)}</li>);
  const isOrdered = /^\s*\d/.test(first);
  const part = isOrdered ? <ol start={Number.parseInt(first.trim(), 10)}>{children}</ol> : <ul>{children}</ul>;
  return { part, next: at };
};

const fenced = (lines: string[], from: number, mark: string): Block => {
  let at = from + 1;
  while (at < lines.length && !lines[at]?.startsWith(mark)) at += 1;
  const part = (
    <pre tabIndex={0}>
      <code>{lines.slice(from + 1, at).join("\n")}</code>
    </pre>
  );
  return { part, next: at + 1 };
};

const quoted = (lines: string[], from: number, depth: number): Block => {
  let at = from;
  while (QUOTE.test(lines[at] ?? "")) at += 1;
  const body = lines.slice(from, at).map((line) => line.replace(QUOTE, ""));
  return { part: <blockquote>{blocks(body.join("\n"), depth + 1)}</blockquote>, next: at };
};

const tabled = (lines: string[], from: number): Block => {
  let at = from + 2;
  while (lines[at]?.includes("|") && lines[at]?.trim()) at += 1;
  const part = (
    <table>
      <thead>
        <tr>
          {cells(lines[from] ?? "").map((cell, index) => (
            <th key={index}>{inline(cell)}</th>
          ))}
        </tr>
      </thead>
      <tbody>
        {lines.slice(from + 2, at).map((line, index) => (
          <tr key={index}>
            {cells(line).map((cell, column) => (
              <td key={column}>{inline(cell)}</td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
  return { part, next: at };
};

const paragraph = (lines: string[], from: number): Block => {
  let at = from + 1;
  while (lines[at]?.trim() && !BEGINS.test(lines[at] ?? "")) at += 1;
  const body = lines.slice(from, at).map((line, index) => (
    <Fragment key={index}>
      {index > 0 && <br />}
      {inline(line)}
    </Fragment>
  ));
  return { part: <p>{body}</p>, next: at };
};

// `at`: a line that is not empty.
const block = (lines: string[], at: number, depth: number): Block => {
  const line = lines[at] ?? "";
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence[1] ?? "");
  const heading = HEADING.exec(line);
  if (heading) {
    const level = Math.min(6, (heading[1] ?? "").length + 2);
    return { part: createElement(`h${level}`, null, inline(heading[2] ?? "")), next: at + 1 };
  }
  if (RULE.test(line)) return { part: <hr />, next: at + 1 };
  if (QUOTE.test(line) && depth < MAX_QUOTES) return quoted(lines, at, depth);
  if (BULLETED.test(line)) return list(lines, at);
  if (line.includes("|") && UNDER_HEADS.test(lines[at + 1] ?? "")) return tabled(lines, at);
  return paragraph(lines, at);
};

const blocks = (text: string, depth = 0): ReactNode => {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const parts: ReactNode[] = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at]?.trim()) {
      at += 1;
      continue;
    }
    const { part, next } = block(lines, at, depth);
    parts.push(part);
    at = next;
  }
  return row(parts);
};

export const Markdown = memo(({ text }: { text: string }) => <div className="said">{blocks(text)}</div>);
