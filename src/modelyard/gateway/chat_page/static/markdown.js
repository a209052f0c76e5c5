// What models write, as elements. Nothing is ever set as HTML: whatever a text holds, it is shown as text.

const make = (name, ...children) => {
  const one = document.createElement(name);
  one.append(...children);
  return one;
};

const INLINE = /(`+)([\s\S]*?[^`])\1(?!`)|\*\*([\s\S]+?)\*\*|__([\s\S]+?)__|\*(?!\s)([^*\n]+?)\*|(?<!\w)_(?!\s)([^_\n]+?)_(?!\w)|~~([\s\S]+?)~~|!?\[([^\]\n]*)\]\((\S+?)(?:\s+"[^"]*")?\)|(https?:\/\/[^\s<>"')\]]+)/;

const link = (address, text) => {
  let url = null;
  try {
    url = new URL(address, location.href);
  } catch {
    return document.createTextNode(text);
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return document.createTextNode(text);
  const one = make("a", text);
  one.href = url.href;
  one.target = "_blank";
  one.rel = "noopener noreferrer nofollow";
  return one;
};

const inline = (text) => {
  const found = [];
  let rest = text;
  while (rest) {
    const match = INLINE.exec(rest);
    if (!match) {
      found.push(rest);
      break;
    }
    if (match.index) found.push(rest.slice(0, match.index));
    const [whole, , code, bold, bold2, italic, italic2, struck, label, address, bare] = match;
    if (code !== undefined) found.push(make("code", code.trim()));
    else if (bold ?? bold2) found.push(make("strong", ...inline(bold ?? bold2)));
    else if (italic ?? italic2) found.push(make("em", ...inline(italic ?? italic2)));
    else if (struck) found.push(make("s", ...inline(struck)));
    else if (address !== undefined) found.push(link(address, label || address));
    else found.push(link(bare, bare));
    rest = rest.slice(match.index + whole.length);
  }
  return found;
};

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((one) => one.trim());

const BEGINS = /^(```|~~~|#{1,6}\s|>\s?|\s*([-*+]|\d+[.)])\s|\s*([-*_])(\s*\3){2,}\s*$)/;

const list = (lines, from, parent) => {
  const depth = (line) => line.match(/^\s*/)[0].length;
  const base = depth(lines[from]);
  const isOrdered = /^\s*\d/.test(lines[from]);
  const element = make(isOrdered ? "ol" : "ul");
  if (isOrdered) element.start = Number.parseInt(lines[from].trim(), 10);
  let at = from;
  let last = null;
  while (at < lines.length) {
    const line = lines[at];
    const item = /^(\s*)([-*+]|\d+[.)])\s+(.*)$/.exec(line);
    if (item && depth(line) > base + 1 && last) {
      at = list(lines, at, last);
    } else if (item && depth(line) >= base - 1) {
      last = make("li", ...inline(item[3]));
      element.append(last);
      at += 1;
    } else if (!item && line.trim() && depth(line) > base && last) {
      last.append(" ", ...inline(line.trim()));
      at += 1;
    } else break;
  }
  parent.append(element);
  return at;
};

export const markdown = (text) => {
  const parent = document.createDocumentFragment();
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = /^(```+|~~~+)(.*)$/.exec(line);
    const heading = /^(#{1,6})\s+(.*?)#*$/.exec(line);
    if (!line.trim()) {
      at += 1;
    } else if (fence) {
      const body = [];
      at += 1;
      while (at < lines.length && !lines[at].startsWith(fence[1])) body.push(lines[at++]);
      at += 1;
      const code = make("code", body.join("\n"));
      const block = make("pre", code);
      block.tabIndex = 0;
      parent.append(block);
    } else if (heading) {
      parent.append(make(`h${Math.min(6, heading[1].length + 2)}`, ...inline(heading[2])));
      at += 1;
    } else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) {
      parent.append(make("hr"));
      at += 1;
    } else if (/^>\s?/.test(line)) {
      const body = [];
      while (at < lines.length && /^>\s?/.test(lines[at])) body.push(lines[at++].replace(/^>\s?/, ""));
      parent.append(make("blockquote", markdown(body.join("\n"))));
    } else if (/^\s*([-*+]|\d+[.)])\s/.test(line)) {
      at = list(lines, at, parent);
    } else if (line.includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)+\|?\s*$/.test(lines[at + 1] ?? "")) {
      const head = make("tr", ...cells(line).map((one) => make("th", ...inline(one))));
      const body = make("tbody");
      at += 2;
      while (at < lines.length && lines[at].includes("|") && lines[at].trim()) {
        body.append(make("tr", ...cells(lines[at++]).map((one) => make("td", ...inline(one)))));
      }
      parent.append(make("table", make("thead", head), body));
    } else {
      const body = [line];
      at += 1;
      while (at < lines.length && lines[at].trim() && !BEGINS.test(lines[at])) body.push(lines[at++]);
      const paragraph = make("p");
      body.forEach((one, place) => paragraph.append(...(place ? [make("br")] : []), ...inline(one)));
      parent.append(paragraph);
    }
  }
  return parent;
};
