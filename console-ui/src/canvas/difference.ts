// The difference between two texts, line by line.
export interface DifferenceLine {
  sign: " " | "+" | "-";
  text: string;
}

const CONTEXT_LINES = 3;
// The table of common lengths has one cell for each pair of lines.
const MAX_CELLS = 4_000_000;

const commonStart = (a: string[], b: string[]): number => {
  let count = 0;
  while (count < a.length && count < b.length && a[count] === b[count]) count++;
  return count;
};

// At most `limit` lines, so that no line counts at both ends.
const commonEnd = (a: string[], b: string[], limit: number): number => {
  let count = 0;
  while (count < limit && a[a.length - 1 - count] === b[b.length - 1 - count]) count++;
  return count;
};

const linesWith = (sign: DifferenceLine["sign"], texts: string[]): DifferenceLine[] =>
  texts.map((text) => ({ sign, text }));

// The length of the longest common subsequence of a[i:] and b[j:], for each i and j.
const commonLengths = (a: string[], b: string[]): Uint32Array[] => {
  const lengths = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      lengths[i]![j] = a[i] === b[j] ? lengths[i + 1]![j + 1]! + 1 : Math.max(lengths[i + 1]![j]!, lengths[i]![j + 1]!);
  return lengths;
};

const changedLines = (a: string[], b: string[]): DifferenceLine[] => {
  const lengths = commonLengths(a, b);
  const lines: DifferenceLine[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      lines.push({ sign: " ", text: a[i]! });
      i++;
      j++;
    } else if (i < a.length && (j >= b.length || lengths[i + 1]![j]! >= lengths[i]![j + 1]!))
      lines.push({ sign: "-", text: a[i++]! });
    else lines.push({ sign: "+", text: b[j++]! });
  }
  return lines;
};

// Added, removed, and up to three unchanged lines around them. Of texts that are too large for a comparison, all lines
// between the common start and the common end count as removed and added.
export const difference = (before: string, after: string): DifferenceLine[] => {
  const a = before.split("\n");
  const b = after.split("\n");
  const start = commonStart(a, b);
  const end = commonEnd(a, b, Math.min(a.length, b.length) - start);
  const oldLines = a.slice(start, a.length - end);
  const newLines = b.slice(start, b.length - end);
  if (oldLines.length * newLines.length > MAX_CELLS) return [...linesWith("-", oldLines), ...linesWith("+", newLines)];
  const lines = changedLines(oldLines, newLines);
  const isNearChange = (index: number) =>
    lines.slice(Math.max(0, index - CONTEXT_LINES), index + CONTEXT_LINES + 1).some((line) => line.sign !== " ");
  return [
    ...linesWith(" ", a.slice(Math.max(0, start - CONTEXT_LINES), start)),
    ...lines.filter((_, index) => isNearChange(index)),
  ];
};
