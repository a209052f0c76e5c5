// Reproducible random values: the same seed gives the same sequence (Mulberry32).
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  // From 0 to 1, without 1.
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  // A whole number from `min` to `max`, both included.
  integer(min: number, max: number): number {
    return min + Math.floor(this.next() * (max - min + 1));
  }

  boolean(): boolean {
    return this.next() < 0.5;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.integer(0, items.length - 1)]!;
  }

  list<T>(maxLength: number, create: (index: number) => T): T[] {
    return Array.from({ length: this.integer(0, maxLength) }, (_, index) => create(index));
  }
}

export const seeds = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1);
