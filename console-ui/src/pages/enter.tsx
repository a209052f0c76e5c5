import { useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { api, Refused } from "../api";
import { useChosen } from "../settings";

// Signing in; or, where nobody has an account yet, making the first one.
export const Enter = ({ isFirst, onDone }: { isFirst: boolean; onDone?: () => void }) => {
  const { words } = useChosen();
  const client = useQueryClient();
  const [trouble, setTrouble] = useState("");
  const [isBusy, setBusy] = useState(false);
  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const text = (name: string) => String(form.get(name) ?? "");
    setBusy(true);
    setTrouble("");
    try {
      if (isFirst) await api.setUp(text("email"), text("name"), text("password"));
      else await api.signIn(text("email"), text("password"));
      await client.invalidateQueries();
      onDone?.();
    } catch (error) {
      setTrouble(error instanceof Refused && error.status === 0 ? words.lost : (error as Error).message);
    } finally {
      setBusy(false);
    }
  };
  return (
    <form className="card narrow" onSubmit={submit}>
      <h1>{isFirst ? words.setUpTitle : words.signInTitle}</h1>
      {isFirst && <p>{words.setUpText}</p>}
      {isFirst && <label>{words.name}<input name="name" autoComplete="name" required /></label>}
      <label>{words.email}<input name="email" type="email" autoComplete="username" required /></label>
      <label>{words.password}
        <input name="password" type="password" autoComplete={isFirst ? "new-password" : "current-password"} minLength={isFirst ? 10 : 1} required />
      </label>
      {trouble && <p className="wrong" role="alert">{trouble}</p>}
      <button className="primary" type="submit" disabled={isBusy}>{isFirst ? words.setUp : words.signIn}</button>
    </form>
  );
};
