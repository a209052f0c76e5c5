// What every page is made of, the console's and the apps'. What is larger, and not on the first page, is in `aria.tsx`
// and `dialog.tsx`.
import type { UseQueryResult } from "@tanstack/react-query";
import {
  type ComponentProps,
  cloneElement,
  createContext,
  type ReactElement,
  type ReactNode,
  useContext,
  useEffect,
  useId,
  useState,
} from "react";
import { Refused } from "../calls";
import type { CommonWords } from "../languages";
import { useChosen, useCommon } from "../settings";

export const Page = ({
  title,
  text,
  actions,
  children,
}: {
  title: string;
  text?: string | undefined;
  actions?: ReactNode;
  children: ReactNode;
}) => {
  useEffect(() => {
    document.title = `${title} · Modelyard`;
  }, [title]);
  return (
    <>
      <div className="head">
        <div>
          <h1>{title}</h1>
          {text && <p className="soft">{text}</p>}
        </div>
        {actions && <div className="row">{actions}</div>}
      </div>
      {children}
    </>
  );
};

export const Card = ({
  title,
  actions,
  children,
  className = "",
}: {
  title?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
  className?: string;
}) => {
  const id = useId();
  return (
    <section className={`card ${className}`} {...(title ? { "aria-labelledby": id } : {})}>
      {(title || actions) && (
        <div className="head">
          <h2 id={id}>{title}</h2>
          {actions && <div className="row">{actions}</div>}
        </div>
      )}
      {children}
    </section>
  );
};

export const Empty = ({ title, children }: { title: string; children?: ReactNode }) => (
  <div className="empty">
    <p>
      <strong>{title}</strong>
    </p>
    {children}
  </div>
);

export const wrongIn = (t: CommonWords, error: unknown) => {
  if (error instanceof Refused && error.status === 0) return t.lost;
  return error instanceof Error ? error.message : String(error);
};
export const useWrong = () => {
  const { t } = useCommon();
  return (error: unknown) => wrongIn(t, error);
};

// What went wrong with any of these, once.
export const Trouble = ({ of }: { of: (UseQueryResult<unknown> | { error: unknown } | null)[] }) => {
  const errorText = useWrong();
  const error = of.find((query) => query?.error)?.error;
  return error ? (
    <p className="wrong" role="alert">
      {errorText(error)}
    </p>
  ) : null;
};

// Until the first answer of any of these is there.
export const Loading = ({ of }: { of: { isLoading: boolean }[] }) => {
  const { t } = useChosen();
  return of.some((query) => query.isLoading) ? (
    <p className="soft" role="status">
      {t.loading}
    </p>
  ) : null;
};

// Words that come up for a moment at the page's edge, and are read out.
interface Toast {
  id: number;
  text: string;
  isBad: boolean;
}
const Toasts = createContext<(text: string, isBad?: boolean) => void>(() => {});
export const useToast = () => useContext(Toasts);
let last = 0;
export const HasToasts = ({ children }: { children: ReactNode }) => {
  const { t } = useCommon();
  const [all, set] = useState<Toast[]>([]);
  const add = (text: string, isBad = false) => {
    const id = ++last;
    set((toasts) => [...toasts.slice(-3), { id, text, isBad }]);
    if (!isBad) setTimeout(() => set((toasts) => toasts.filter((toast) => toast.id !== id)), 4000);
  };
  return (
    <Toasts value={add}>
      {children}
      <div className="toasts" role="status" aria-live="polite">
        {all.map((toast) => (
          <p key={toast.id} className={toast.isBad ? "bad" : ""}>
            {toast.text}{" "}
            <button
              type="button"
              className="link"
              aria-label={t.dismiss}
              onClick={() => set((toasts) => toasts.filter((shownToast) => shownToast.id !== toast.id))}
            >
              ×
            </button>
          </p>
        ))}
      </div>
    </Toasts>
  );
};

export const Copied = ({ text, label }: { text: string; label?: string }) => {
  const { t } = useCommon();
  const toast = useToast();
  return (
    <button
      type="button"
      onClick={() =>
        void navigator.clipboard.writeText(text).then(
          () => toast(t.copied),
          () => toast(t.cannotCopy, true),
        )
      }
    >
      {label ?? t.copy}
    </button>
  );
};

// A control with its name over it, and what helps to fill it in told with it.
export const Field = ({
  label,
  help,
  children,
}: {
  label: string;
  help?: ReactNode;
  children: ReactElement<{ id?: string; "aria-describedby"?: string }>;
}) => {
  const generatedId = useId();
  const id = children.props.id ?? generatedId;
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {cloneElement(children, { id, ...(help ? { "aria-describedby": `${id}-help` } : {}) })}
      {help && (
        <small className="soft" id={`${id}-help`}>
          {help}
        </small>
      )}
    </div>
  );
};

export const SetByOperator = () => {
  const { t } = useChosen();
  return <span className="status">{t.setByOperator}</span>;
};

export const Pick = ({
  label,
  value,
  options,
  onChange,
  ...rest
}: {
  label: string;
  value: string;
  options: readonly (readonly [string, string] | string)[];
  onChange: (value: string) => void;
} & Omit<ComponentProps<"select">, "onChange" | "value">) => (
  <Field label={label}>
    <select value={value} onChange={(event) => onChange(event.target.value)} {...rest}>
      {options
        .map((option) => (typeof option === "string" ? ([option, option] as const) : option))
        .map(([id, text]) => (
          <option key={id} value={id}>
            {text}
          </option>
        ))}
    </select>
  </Field>
);

export const Status = ({ is }: { is: string }) => {
  const { t } = useChosen();
  const kind = /^(ok|succeeded|success|completed|running|active|cached|ready|available)$/.test(is)
    ? is === "running"
      ? "busy"
      : "good"
    : /^(paused|waiting|indexing|parsing|splitting|queuing|cancelled|stopped|partial-succeeded|exception|disabled|queued)$/.test(
          is,
        )
      ? "busy"
      : "bad";
  const known = t.states as Record<string, string>;
  return <span className={`status ${kind}`}>{known[is] ?? is}</span>;
};

export const Json = ({ value }: { value: unknown }) => (
  <pre tabIndex={0}>{typeof value === "string" ? value : JSON.stringify(value, null, 2)}</pre>
);

export const Meter = ({ label, value, max }: { label: string; value: number; max: number }) => (
  <meter aria-label={label} min={0} max={max || 1} value={Math.min(value, max || 1)} />
);

export const Drop = ({
  label,
  accept,
  onFiles,
  multiple = true,
}: {
  label: string;
  accept: string;
  onFiles: (files: File[]) => void;
  multiple?: boolean;
}) => {
  const [isOver, setOver] = useState(false);
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: what can be dropped here can be chosen by the button within
    <div
      className={`drop${isOver ? " over" : ""}`}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        onFiles([...event.dataTransfer.files]);
      }}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
    >
      <label>
        {label}
        <input
          type="file"
          accept={accept}
          multiple={multiple}
          onChange={(event) => {
            onFiles([...(event.target.files ?? [])]);
            event.target.value = "";
          }}
        />
      </label>
    </div>
  );
};
