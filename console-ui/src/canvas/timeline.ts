// States that can be restored. The current state is not part of it.
export interface Timeline<T> {
  past: T[];
  future: T[];
}
export interface Restored<T> {
  state: T;
  timeline: Timeline<T>;
}

const MAX_STEPS = 100;

export const remember = <T>({ past, future }: Timeline<T>, current: T): Timeline<T> => ({
  past: [...past.slice(1 - MAX_STEPS), current],
  future,
});

// An edit after some steps back gives up the states that were undone.
export const withoutFuture = <T>({ past }: Timeline<T>): Timeline<T> => ({ past, future: [] });

export const undo = <T>({ past, future }: Timeline<T>, current: T): Restored<T> | null => {
  if (!past.length) return null;
  return { state: past.at(-1)!, timeline: { past: past.slice(0, -1), future: [...future, current] } };
};

export const redo = <T>({ past, future }: Timeline<T>, current: T): Restored<T> | null => {
  if (!future.length) return null;
  return { state: future.at(-1)!, timeline: { past: [...past, current], future: future.slice(0, -1) } };
};
