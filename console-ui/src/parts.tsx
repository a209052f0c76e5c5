import type { UseQueryResult } from "@tanstack/react-query";
import { useState } from "react";
import { Refused } from "./api";
import { useChosen } from "./settings";

// What went wrong with any of these, once.
export const Trouble = ({ of }: { of: UseQueryResult<unknown>[] }) => {
  const { words } = useChosen();
  const error = of.find((one) => one.error)?.error;
  if (!error) return null;
  const text = error instanceof Refused && error.status === 0 ? words.lost : error.message;
  return <p className="wrong" role="alert">{text}</p>;
};

export const Copied = ({ text }: { text: string }) => {
  const { words } = useChosen();
  const [isDone, setDone] = useState(false);
  return (
    <button type="button" onClick={() => void navigator.clipboard.writeText(text).then(() => setDone(true))}>
      {isDone ? words.copied : words.copy}
    </button>
  );
};
