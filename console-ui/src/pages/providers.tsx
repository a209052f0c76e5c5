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
import { type Chosen, useChosen, useKept } from "../settings";

export const Providers = () => {
  const { t, label } = useChosen();
  const [wanted, setWanted] = useKept("providers.find", "");
  const [type, setType] = useKept("providers.type", "");
  const providers = useQuery({ queryKey: ["providers"], queryFn: api.providers });
  const shown = (providers.data ?? []).filter(
    (provider) =>
      `${provider.id} ${label(provider.label)} ${label(provider.description)}`
        .toLowerCase()
        .includes(wanted.toLowerCase()) &&
      (!type || (provider.types as string[]).includes(type)),
  );
  // A server of one's own needs no credential, and is not there for that.
  const isUsed = (provider: Shape<"ProviderView">) =>
    provider.is_ready && (provider.models > 0 || provider.credentials.length > 0);
  const groups = [
    [t.readyToUse, shown.filter(isUsed)],
    [t.moreProviders, shown.filter((provider) => !isUsed(provider))],
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
                {list.map((provider) => (
                  <li key={provider.id} className="card">
                    <h3>
                      <Link to="/providers/$id" params={{ id: provider.id }}>
                        {label(provider.label)}
                      </Link>{" "}
                      <code className="soft small">{provider.id}</code>
                    </h3>
                    {provider.description && <p className="soft small">{label(provider.description)}</p>}
                    <p className="small">{provider.types.map((kind) => t.types[kind]).join(" · ")}</p>
                    <p className="soft small">
                      {filled(t.countModels, { count: provider.models })}
                      {provider.credentials.length > 0 &&
                        ` · ${filled(t.countCredentials, { count: provider.credentials.length })}`}
                    </p>
                    {provider.credentials.some((credential) => credential.resting_seconds > 0) && (
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

const TOUCHED = ["credentials", "providers", "catalogue"];

export const Provider = () => {
  const { t, label } = useChosen();
  const { id } = useParams({ strict: false }) as { id: string };
  const provider = useQuery({ queryKey: ["providers", id], queryFn: () => api.provider(id) });
  const [edited, setEdited] = useState<Shape<"CredentialView"> | "new" | null>(null);
  const view = provider.data;
  const addButton = (
    <button type="button" className="primary" onClick={() => setEdited("new")}>
      {t.addCredential}
    </button>
  );
  return (
    <Page
      title={view ? label(view.label) : id}
      text={view ? `${view.id} · ${label(view.description)}` : undefined}
      actions={view && view.forms.length > 0 ? addButton : undefined}
    >
      <p>
        <Link to="/providers">← {t.providers}</Link>
      </p>
      <Trouble of={[provider]} />
      {view && (
        <>
          <Credentials provider={view} onEdit={setEdited} />
          <OfferedModels provider={view} />
          {edited && (
            <CredentialForm provider={view} known={edited === "new" ? null : edited} onClose={() => setEdited(null)} />
          )}
        </>
      )}
    </Page>
  );
};

const OfferedModels = ({ provider }: { provider: Provided }) => {
  const { t } = useChosen();
  const [query, setQuery] = useState("");
  const models = provider.offered.filter((model) => model.id.toLowerCase().includes(query.toLowerCase()));
  return (
    <Card
      title={t.models}
      actions={
        <Field label={t.find}>
          <input type="search" value={query} onChange={(event) => setQuery(event.target.value)} />
        </Field>
      }
    >
      {provider.is_customizable && <p className="soft">{t.anyName}</p>}
      <ModelList models={models.slice(0, 200)} />
    </Card>
  );
};

// The credentials in use, those of the settings included, and those that are stored but not in use.
const Credentials = ({
  provider,
  onEdit,
}: {
  provider: Provided;
  onEdit: (credential: Shape<"CredentialView">) => void;
}) => {
  const { t } = useChosen();
  const allStored = useQuery({ queryKey: ["credentials"], queryFn: () => api.all("credentials") });
  const stored = (allStored.data ?? []).filter((credential) => credential.provider === provider.id);
  const used = provider.credentials;
  const unused = stored.filter((credential) => !used.some((known) => known.id === credential.id));
  const rows = [
    ...used.map((credential) => ({ ...credential, is_enabled: true })),
    ...unused.map((credential) => ({ ...credential, resting_seconds: 0, is_stored: true })),
  ];
  return (
    <Card title={t.credentials}>
      {!provider.needs_credential && !used.length && <p>{t.needsNone}</p>}
      {provider.needs_credential && !rows.length && (
        <Empty title={t.noCredential}>
          <p>{t.noCredentialText}</p>
        </Empty>
      )}
      {rows.length > 0 && (
        <Table
          caption={t.credentials}
          id={(row) => row.id}
          rows={rows}
          columns={[
            { title: t.name, cell: (row) => row.name },
            { title: t.weight, cell: (row) => row.weight, isNumber: true },
            { title: t.priority, cell: (row) => row.priority, isNumber: true },
            {
              title: t.state,
              cell: (row) => <CredentialState isEnabled={row.is_enabled} restingSeconds={row.resting_seconds} />,
            },
            {
              title: t.actions,
              cell: (row) => (
                <CredentialActions stored={stored.find((credential) => credential.id === row.id)} onEdit={onEdit} />
              ),
            },
          ]}
        />
      )}
    </Card>
  );
};

const CredentialState = ({ isEnabled, restingSeconds }: { isEnabled: boolean; restingSeconds: number }) => {
  const { t, span } = useChosen();
  if (!isEnabled) return t.off;
  if (restingSeconds > 0) return <span className="wrong">{filled(t.rests, { span: span(restingSeconds) })}</span>;
  return <span className="status good">{t.ready}</span>;
};

// A credential of the settings file is not stored, and is changed there.
const CredentialActions = ({
  stored,
  onEdit,
}: {
  stored: Shape<"CredentialView"> | undefined;
  onEdit: (credential: Shape<"CredentialView">) => void;
}) => {
  const { t } = useChosen();
  const { isKept } = useMay();
  const remove = useDo((id: string) => api.remove("credentials", id), TOUCHED, t.removed);
  const enable = useDo((id: string, is: boolean) => api.change("credentials", id, { is_enabled: is }), TOUCHED);
  if (isKept(stored)) return <SetByOperator />;
  if (!stored) return <span className="soft">{t.fromSettings}</span>;
  return (
    <div className="row tight">
      <Switch label={t.on} isOn={stored.is_enabled} onChange={(is) => void enable.run(stored.id, is)} />
      <button type="button" onClick={() => onEdit(stored)}>
        {t.edit}
      </button>
      <Sure
        label={t.remove}
        question={filled(t.sureRemove, { name: stored.name })}
        onSure={() => remove.run(stored.id)}
      />
    </div>
  );
};

export const ModelList = ({ models }: { models: Shape<"CatalogueModel">[] }) => {
  const { t, label, number, money } = useChosen();
  if (!models.length) return <p className="soft">{t.nothingFound}</p>;
  return (
    <Table
      caption={t.models}
      rows={models}
      id={(row) => `${row.id} ${row.type}`}
      columns={[
        {
          title: t.model,
          cell: (row) => (
            <>
              <code>{row.id}</code>
              {label(row.label) !== row.model && <span className="soft small"> {label(row.label)}</span>}
            </>
          ),
        },
        { title: t.type, cell: (row) => t.types[row.type] },
        { title: t.context, cell: (row) => (row.context_size ? number(row.context_size) : ""), isNumber: true },
        {
          title: t.priceInOut,
          cell: (row) =>
            row.input_price === null
              ? "?"
              : `${money(row.input_price, row.currency)} / ${row.output_price === null ? "–" : money(row.output_price, row.currency)}`,
          isNumber: true,
        },
        {
          title: t.state,
          cell: (row) =>
            row.is_ready ? <span className="status good">{t.ready}</span> : <span className="soft">{t.notReady}</span>,
        },
      ]}
    />
  );
};

type Provided = Shape<"ProviderDetail">;

type CredentialField = Provided["forms"][number];

const useCredentialForm = (provider: Provided, known: Shape<"CredentialView"> | null, onClose: () => void) => {
  const { t, label } = useChosen();
  const errorText = useWrong();
  const toast = useToast();
  const [values, setValues] = useState<Record<string, string>>(() =>
    Object.fromEntries(provider.forms.map((field) => [field.variable, field.default ?? ""])),
  );
  const [options, setOptions] = useState(() => ({
    name:
      known?.name ?? filled(t.credentialName, { name: label(provider.label), number: provider.credentials.length + 1 }),
    weight: String(known?.weight ?? 1),
    priority: String(known?.priority ?? 0),
  }));
  const [trouble, setTrouble] = useState("");
  const [isBusy, setBusy] = useState(false);
  const fields = provider.forms.filter((field) =>
    field.show_on.every((on) => on.variable === "__model_type" || values[on.variable] === on.value),
  );
  const entries = fields.map((field) => [field.variable, values[field.variable] ?? ""] as const);
  const credentials = Object.fromEntries(entries.filter(([, value]) => value !== ""));
  const defaultOf = (variable: string) => provider.forms.find((field) => field.variable === variable)?.default ?? "";
  const isChanged = Object.entries(credentials).some(([variable, value]) => value !== defaultOf(variable));
  const save = useDo(async () => {
    const { name } = options;
    const order = { weight: Number(options.weight) || 0, priority: Number(options.priority) || 0 };
    if (!known) return api.make("credentials", { name, provider: provider.id, values: credentials, ...order });
    return api.change("credentials", known.id, { name, ...order, ...(isChanged ? { values: credentials } : {}) });
  }, TOUCHED);
  // Whether the provider accepts the credential; if not, the form says why.
  const check = async (): Promise<boolean> => {
    const result = await api.checkCredential(provider.id, credentials);
    if (result.works) toast(filled(t.credentialWorks, { count: result.models.length }));
    else setTrouble(result.message);
    return result.works;
  };
  const submit = async (event: FormEvent, isForced = false) => {
    event.preventDefault();
    setBusy(true);
    setTrouble("");
    try {
      const needsCheck = !isForced && (!known || isChanged);
      if (needsCheck && !(await check())) return;
      if (await save.run()) onClose();
    } catch (error) {
      setTrouble(errorText(error));
    } finally {
      setBusy(false);
    }
  };
  return { fields, values, setValues, options, setOptions, trouble, isBusy, submit };
};
type CredentialControl = ReturnType<typeof useCredentialForm>;

// Made from the provider's own form: what is shown depends on what was chosen, what is secret is not echoed.
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
  const control = useCredentialForm(provider, known, onClose);
  const { fields, values, setValues, trouble, isBusy, submit } = control;
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
        {fields.map((field) => (
          <Field key={field.variable} label={label(field.label)}>
            {credentialControl(
              field,
              values,
              field.required && !known,
              (value) => setValues((before) => ({ ...before, [field.variable]: value })),
              label,
            )}
          </Field>
        ))}
        <CredentialOptions control={control} />
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

// Not a component, since `Field` gives its id to the control itself.
const credentialControl = (
  field: CredentialField,
  values: Record<string, string>,
  isRequired: boolean,
  put: (value: string) => void,
  label: Chosen["label"],
) => {
  const value = values[field.variable] ?? "";
  switch (field.type) {
    case "select":
    case "radio": {
      const options = (field.options ?? []).filter((option) =>
        option.show_on.every((on) => values[on.variable] === on.value),
      );
      return (
        <select value={value} required={isRequired} onChange={(event) => put(event.target.value)}>
          <option value="" />
          {options.map((option) => (
            <option key={option.value} value={option.value}>
              {label(option.label) || option.value}
            </option>
          ))}
        </select>
      );
    }
    case "switch":
      return (
        <input type="checkbox" checked={value === "true"} onChange={(event) => put(String(event.target.checked))} />
      );
    default:
      return (
        <input
          type={field.type === "secret-input" ? "password" : "text"}
          autoComplete="off"
          spellCheck={false}
          value={value}
          onChange={(event) => put(event.target.value)}
          required={isRequired}
          placeholder={label(field.placeholder)}
          {...(field.max_length ? { maxLength: field.max_length } : {})}
        />
      );
  }
};

const CredentialOptions = ({ control }: { control: CredentialControl }) => {
  const { t } = useChosen();
  const { options, setOptions } = control;
  const put = (change: Partial<typeof options>) => setOptions((before) => ({ ...before, ...change }));
  return (
    <div className="fields">
      <Field label={t.name}>
        <input value={options.name} required onChange={(event) => put({ name: event.target.value })} />
      </Field>
      <Field label={t.weight} help={t.weightHelp}>
        <input
          type="number"
          min={0}
          step="any"
          value={options.weight}
          onChange={(event) => put({ weight: event.target.value })}
        />
      </Field>
      <Field label={t.priority} help={t.priorityHelp}>
        <input
          type="number"
          step={1}
          value={options.priority}
          onChange={(event) => put({ priority: event.target.value })}
        />
      </Field>
    </div>
  );
};
