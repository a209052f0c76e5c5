import { useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { type FormEvent, useState } from "react";
import { api, type Shape } from "../api";
import { useDo } from "../components/actions";
import { Switch } from "../components/aria";
import { Card, Empty, Field, Page, SetByOperator, Trouble, useToast, useWrong } from "../components/base";
import { Dialog, Sure } from "../components/dialog";
import { Table } from "../components/table";
import { filled } from "../messages";
import { useMay } from "../permissions";
import { useChosen, useKept } from "../settings";

export const Providers = () => {
  const { t, label } = useChosen();
  const [wanted, setWanted] = useKept("providers.find", "");
  const [type, setType] = useKept("providers.type", "");
  const providers = useQuery({ queryKey: ["providers"], queryFn: api.providers });
  const shown = (providers.data ?? []).filter(
    (one) =>
      `${one.id} ${label(one.label)} ${label(one.description)}`.toLowerCase().includes(wanted.toLowerCase()) &&
      (!type || (one.types as string[]).includes(type)),
  );
  // A server of one's own needs no credential, and is not there for that.
  const isUsed = (one: Shape<"ProviderView">) => one.is_ready && (one.models > 0 || one.credentials.length > 0);
  const groups = [
    [t.readyToUse, shown.filter(isUsed)],
    [t.moreProviders, shown.filter((one) => !isUsed(one))],
  ] as const;
  return (
    <Page
      title={t.providers}
      text={t.providersText}
      actions={
        <Link to="/models" className="button">
          {t.models}
        </Link>
      }
    >
      <div className="row">
        <Field label={t.find}>
          <input type="search" value={wanted} onChange={(event) => setWanted(event.target.value)} />
        </Field>
        <Field label={t.type}>
          <select value={type} onChange={(event) => setType(event.target.value)}>
            <option value="">{t.all}</option>
            {Object.entries(t.types).map(([id, text]) => (
              <option key={id} value={id}>
                {text}
              </option>
            ))}
          </select>
        </Field>
      </div>
      <Trouble of={[providers]} />
      {providers.data && !shown.length && <Empty title={t.nothingFound} />}
      {groups.map(
        ([title, list]) =>
          list.length > 0 && (
            <section key={title} aria-label={title}>
              <h2>{title}</h2>
              <ul className="grid">
                {list.map((one) => (
                  <li key={one.id} className="card">
                    <h3>
                      <Link to="/providers/$id" params={{ id: one.id }}>
                        {label(one.label)}
                      </Link>{" "}
                      <code className="soft small">{one.id}</code>
                    </h3>
                    {one.description && <p className="soft small">{label(one.description)}</p>}
                    <p className="small">{one.types.map((kind) => t.types[kind]).join(" · ")}</p>
                    <p className="soft small">
                      {filled(t.countModels, { count: one.models })}
                      {one.credentials.length > 0 &&
                        ` · ${filled(t.countCredentials, { count: one.credentials.length })}`}
                    </p>
                    {one.credentials.some((each) => each.resting_seconds > 0) && (
                      <p className="wrong small">{t.someRest}</p>
                    )}
                  </li>
                ))}
              </ul>
            </section>
          ),
      )}
    </Page>
  );
};

export const Provider = () => {
  const { t, label, span } = useChosen();
  const { isKept } = useMay();
  const { id } = useParams({ strict: false }) as { id: string };
  const provider = useQuery({ queryKey: ["providers", id], queryFn: () => api.provider(id) });
  const stored = useQuery({ queryKey: ["credentials"], queryFn: () => api.all("credentials") });
  const [adding, setAdding] = useState<Shape<"CredentialView"> | "new" | null>(null);
  const remove = useDo(
    (name: string) => api.remove("credentials", name),
    ["credentials", "providers", "catalogue"],
    t.removed,
  );
  const enable = useDo(
    (name: string, is: boolean) => api.change("credentials", name, { is_enabled: is }),
    ["credentials", "providers", "catalogue"],
  );
  const [wanted, setWanted] = useState("");
  const one = provider.data;
  const mine = (stored.data ?? []).filter((each) => each.provider === id);
  const models = (one?.offered ?? []).filter((each) => each.id.toLowerCase().includes(wanted.toLowerCase()));
  return (
    <Page
      title={one ? label(one.label) : id}
      text={one ? `${one.id} · ${label(one.description)}` : undefined}
      actions={
        one && one.forms.length > 0 ? (
          <button type="button" className="primary" onClick={() => setAdding("new")}>
            {t.addCredential}
          </button>
        ) : undefined
      }
    >
      <p>
        <Link to="/providers">← {t.providers}</Link>
      </p>
      <Trouble of={[provider]} />
      {one && (
        <>
          <Card title={t.credentials}>
            {!one.needs_credential && !one.credentials.length && <p>{t.needsNone}</p>}
            {one.needs_credential && !one.credentials.length && !mine.length && (
              <Empty title={t.noCredential}>
                <p>{t.noCredentialText}</p>
              </Empty>
            )}
            {(one.credentials.length > 0 || mine.length > 0) && (
              <Table
                caption={t.credentials}
                id={(row) => row.id}
                rows={[
                  ...one.credentials.map((each) => ({ ...each, is_enabled: true })),
                  ...mine
                    .filter((each) => !one.credentials.some((known) => known.id === each.id))
                    .map((each) => ({ ...each, resting_seconds: 0, is_stored: true })),
                ]}
                columns={[
                  { title: t.name, cell: (row) => row.name },
                  { title: t.weight, cell: (row) => row.weight, isNumber: true },
                  { title: t.priority, cell: (row) => row.priority, isNumber: true },
                  {
                    title: t.state,
                    cell: (row) =>
                      !row.is_enabled ? (
                        t.off
                      ) : row.resting_seconds > 0 ? (
                        <span className="wrong">{filled(t.rests, { span: span(row.resting_seconds) })}</span>
                      ) : (
                        <span className="status good">{t.ready}</span>
                      ),
                  },
                  {
                    title: t.actions,
                    cell: (row) => {
                      const known = mine.find((each) => each.id === row.id);
                      return isKept(known) ? (
                        <SetByOperator />
                      ) : known ? (
                        <div className="row tight">
                          <Switch
                            label={t.on}
                            isOn={known.is_enabled}
                            onChange={(is) => void enable.run(known.id, is)}
                          />
                          <button type="button" onClick={() => setAdding(known)}>
                            {t.edit}
                          </button>
                          <Sure
                            label={t.remove}
                            question={filled(t.sureRemove, { name: known.name })}
                            onSure={() => remove.run(known.id)}
                          />
                        </div>
                      ) : (
                        <span className="soft">{t.fromSettings}</span>
                      );
                    },
                  },
                ]}
              />
            )}
          </Card>
          <Card
            title={t.models}
            actions={
              <Field label={t.find}>
                <input type="search" value={wanted} onChange={(event) => setWanted(event.target.value)} />
              </Field>
            }
          >
            {one.is_customizable && <p className="soft">{t.anyName}</p>}
            <ModelList models={models.slice(0, 200)} />
          </Card>
          {adding && (
            <CredentialForm provider={one} known={adding === "new" ? null : adding} onClose={() => setAdding(null)} />
          )}
        </>
      )}
    </Page>
  );
};

export const ModelList = ({ models }: { models: Shape<"CatalogueModel">[] }) => {
  const { t, label, number, money } = useChosen();
  if (!models.length) return <p className="soft">{t.nothingFound}</p>;
  return (
    <Table
      caption={t.models}
      rows={models}
      id={(one) => `${one.id} ${one.type}`}
      columns={[
        {
          title: t.model,
          cell: (one) => (
            <>
              <code>{one.id}</code>
              {label(one.label) !== one.model && <span className="soft small"> {label(one.label)}</span>}
            </>
          ),
        },
        { title: t.type, cell: (one) => t.types[one.type] },
        { title: t.context, cell: (one) => (one.context_size ? number(one.context_size) : ""), isNumber: true },
        {
          title: t.priceInOut,
          cell: (one) =>
            one.input_price === null
              ? "?"
              : `${money(one.input_price, one.currency)} / ${one.output_price === null ? "–" : money(one.output_price, one.currency)}`,
          isNumber: true,
        },
        {
          title: t.state,
          cell: (one) =>
            one.is_ready ? <span className="status good">{t.ready}</span> : <span className="soft">{t.notReady}</span>,
        },
      ]}
    />
  );
};

type Provided = Shape<"ProviderDetail">;

// Drawn from the provider's own form: what is shown depends on what was chosen, what is secret is not echoed.
const CredentialForm = ({
  provider,
  known,
  onClose,
}: {
  provider: Provided;
  known: Shape<"CredentialView"> | null;
  onClose: () => void;
}) => {
  const { t, label } = useChosen();
  const said = useWrong();
  const toast = useToast();
  const [values, set] = useState<Record<string, string>>(() =>
    Object.fromEntries(provider.forms.map((one) => [one.variable, one.default ?? ""])),
  );
  const [name, setName] = useState(
    known?.name ?? filled(t.credentialName, { name: label(provider.label), number: provider.credentials.length + 1 }),
  );
  const [weight, setWeight] = useState(String(known?.weight ?? 1));
  const [priority, setPriority] = useState(String(known?.priority ?? 0));
  const [trouble, setTrouble] = useState("");
  const [isBusy, setBusy] = useState(false);
  const shown = provider.forms.filter((one) =>
    one.show_on.every((on) => on.variable === "__model_type" || values[on.variable] === on.value),
  );
  const given = Object.fromEntries(
    shown.map((one) => [one.variable, values[one.variable] ?? ""]).filter(([, value]) => value !== ""),
  );
  const isChanged = Object.keys(given).some(
    (key) => given[key] !== (provider.forms.find((one) => one.variable === key)?.default ?? ""),
  );
  const save = useDo(async () => {
    const how = { weight: Number(weight) || 0, priority: Number(priority) || 0 };
    if (known) return api.change("credentials", known.id, { name, ...how, ...(isChanged ? { values: given } : {}) });
    return api.make("credentials", { name, provider: provider.id, values: given, ...how });
  }, ["credentials", "providers", "catalogue"]);
  const submit = async (event: FormEvent, isForced = false) => {
    event.preventDefault();
    setBusy(true);
    setTrouble("");
    try {
      if (!isForced && (!known || isChanged)) {
        const told = await api.checkCredential(provider.id, given);
        if (!told.works) {
          setTrouble(told.message);
          return;
        }
        toast(filled(t.credentialWorks, { count: told.models.length }));
      }
      if (await save.run()) onClose();
    } catch (error) {
      setTrouble(said(error));
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog
      title={known ? known.name : filled(t.addCredentialFor, { name: label(provider.label) })}
      isOpen
      onClose={onClose}
    >
      <form className="form" onSubmit={(event) => void submit(event)}>
        {provider.help && (
          <p>
            <a href={label(provider.help.url)} target="_blank" rel="noopener noreferrer">
              {label(provider.help.title)}
            </a>
          </p>
        )}
        {known && <p className="soft">{t.keepSecrets}</p>}
        {shown.map((one) => {
          const put = (value: string) => set((now) => ({ ...now, [one.variable]: value }));
          const common = {
            required: one.required && !known,
            placeholder: label(one.placeholder),
            ...(one.max_length ? { maxLength: one.max_length } : {}),
          };
          const options = (one.options ?? []).filter((each) =>
            each.show_on.every((on) => values[on.variable] === on.value),
          );
          return (
            <Field key={one.variable} label={label(one.label)}>
              {one.type === "select" || one.type === "radio" ? (
                <select
                  value={values[one.variable] ?? ""}
                  required={one.required && !known}
                  onChange={(event) => put(event.target.value)}
                >
                  <option value="" />
                  {options.map((each) => (
                    <option key={each.value} value={each.value}>
                      {label(each.label) || each.value}
                    </option>
                  ))}
                </select>
              ) : one.type === "switch" ? (
                <input
                  type="checkbox"
                  checked={values[one.variable] === "true"}
                  onChange={(event) => put(String(event.target.checked))}
                />
              ) : (
                <input
                  type={one.type === "secret-input" ? "password" : "text"}
                  autoComplete="off"
                  spellCheck={false}
                  value={values[one.variable] ?? ""}
                  onChange={(event) => put(event.target.value)}
                  {...common}
                />
              )}
            </Field>
          );
        })}
        <div className="fields">
          <Field label={t.name}>
            <input value={name} required onChange={(event) => setName(event.target.value)} />
          </Field>
          <Field label={t.weight} help={t.weightHelp}>
            <input
              type="number"
              min={0}
              step="any"
              value={weight}
              onChange={(event) => setWeight(event.target.value)}
            />
          </Field>
          <Field label={t.priority} help={t.priorityHelp}>
            <input type="number" step={1} value={priority} onChange={(event) => setPriority(event.target.value)} />
          </Field>
        </div>
        {trouble && (
          <div role="alert">
            <p className="wrong">{trouble}</p>
            <button type="button" onClick={(event) => void submit(event, true)}>
              {t.saveAnyway}
            </button>
          </div>
        )}
        <button type="submit" className="primary" disabled={isBusy}>
          {isBusy ? t.checking : t.checkAndSave}
        </button>
      </form>
    </Dialog>
  );
};
