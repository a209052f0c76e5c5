// Changed copies of lists, for the rows of forms.
export const replaceAt = <T>(items: readonly T[], index: number, item: T): T[] =>
  items.map((existing, position) => (position === index ? item : existing));

export const removeAt = <T>(items: readonly T[], index: number): T[] =>
  items.filter((_, position) => position !== index);

// Exchanges an item with the one before it; the first stays where it is.
export const moveUp = <T>(items: readonly T[], index: number): T[] => {
  const previous = items[index - 1];
  const moved = items[index];
  if (index < 1 || moved === undefined || previous === undefined) return [...items];
  return replaceAt(replaceAt(items, index - 1, moved), index, previous);
};
