import { useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { type FormEvent, type ReactNode, useState } from "react";
import { api } from "../api";
import { useWrong } from "../components/base";
import { filled } from "../messages";
import { useWho } from "../permissions";
import { useChosen } from "../settings";

const Form = ({
  title,
  text,
  send,
  isWithin,
  children,
  button,
}: {
  title: string;
  text?: string;
  send: (text: (name: string) => string) => Promise<unknown>;
  isWithin: boolean;
  children: ReactNode;
  button: string;
}) => {
  const errorText = useWrong();
  const [trouble, setTrouble] = useState("");
  const [isBusy, setBusy] = useState(false);
  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    setBusy(true);
    setTrouble("");
    try {
      await send((name) => String(form.get(name) ?? ""));
    } catch (error) {
      setTrouble(errorText(error));
    } finally {
      setBusy(false);
    }
  };
  return (
    <form className={isWithin ? "form" : "card narrow"} onSubmit={(event) => void submit(event)}>
      {!isWithin && <h1>{title}</h1>}
      {text && <p>{text}</p>}
      {children}
      {trouble && (
        <p className="wrong" role="alert">
          {trouble}
        </p>
      )}
      <button className="primary" type="submit" disabled={isBusy}>
        {button}
      </button>
    </form>
  );
};

// Signing in; or, where nobody has an account yet, making the first one.
export const Enter = ({
  isFirst,
  isWithin = false,
  onDone,
}: {
  isFirst: boolean;
  isWithin?: boolean;
  onDone?: () => void;
}) => {
  const { t } = useChosen();
  const client = useQueryClient();
  const who = useWho();
  return (
    <Form
      title={isFirst ? t.setUpTitle : t.signInTitle}
      isWithin={isWithin}
      button={isFirst ? t.setUp : t.signIn}
      {...(isFirst ? { text: t.setUpText } : {})}
      send={async (text) => {
        await (isFirst
          ? api.setUp(text("email"), text("name"), text("password"))
          : api.signIn(text("email"), text("password")));
        await client.invalidateQueries();
        onDone?.();
      }}
    >
      {!isFirst && who.data?.elsewhere && (
        <a className="button" href="/console/api/oidc/begin">
          {filled(t.signInAt, { name: who.data.elsewhere })}
        </a>
      )}
      {isFirst && (
        <label className="field">
          {t.name}
          <input name="name" autoComplete="name" required />
        </label>
      )}
      <label className="field">
        {t.email}
        <input name="email" type="email" autoComplete="username" required />
      </label>
      <label className="field">
        {t.password}
        <input
          name="password"
          type="password"
          autoComplete={isFirst ? "new-password" : "current-password"}
          minLength={isFirst ? 10 : 1}
          required
        />
      </label>
    </Form>
  );
};

// Somebody was invited, and comes by the link: what is behind `#` is never sent to a server by itself.
export const Invited = () => {
  const { t } = useChosen();
  const client = useQueryClient();
  const navigate = useNavigate();
  return (
    <Form
      title={t.invitedTitle}
      isWithin={false}
      button={t.accept}
      send={async (text) => {
        await api.accept(location.hash.slice(1), text("name"), text("password"));
        await client.invalidateQueries();
        await navigate({ to: "/" });
      }}
    >
      <label className="field">
        {t.name}
        <input name="name" autoComplete="name" required />
      </label>
      <label className="field">
        {t.password}
        <input name="password" type="password" autoComplete="new-password" minLength={10} required />
      </label>
    </Form>
  );
};
