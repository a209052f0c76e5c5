// Where the traces of an app's runs are sent.
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, type Shape } from "../api";
import { useDo } from "../components/actions";
import { Changes, Switch } from "../components/aria";
import { Card, Empty, Field, Loading, Pick, Trouble } from "../components/base";
import { Dialog } from "../components/dialog";
import { Table } from "../components/table";
import { removeAt, replaceAt } from "../lists";
import { filled } from "../messages";
import { useChosen } from "../settings";
import {
  type Destination,
  formOf,
  inputOf,
  isRequired,
  keepsCredentials,
  newForm,
  type Service,
  switched,
  type TraceForm,
  withService,
} from "./traces-form";

const useServiceLabel = () => {
  const { t } = useChosen();
  const labels = t.traceServices as Record<string, string>;
  return (name: string) => labels[name] ?? name;
};

export const Traces = ({ id }: { id: string }) => {
  const { t } = useChosen();
  const traces = useQuery({ queryKey: ["traces", id], queryFn: () => api.traces(id), refetchInterval: 5000 });
  // A destination that is edited, or true for a new one.
  const [edited, setEdited] = useState<Destination | true | null>(null);
  const destinations = traces.data?.data ?? [];
  return (
    <Card
      title={t.traces}
      actions={
        <button type="button" disabled={!traces.data} onClick={() => setEdited(true)}>
          {t.addDestination}
        </button>
      }
    >
      <p className="soft">{t.tracesText}</p>
      <Trouble of={[traces]} />
      <Loading of={[traces]} />
      {traces.data && !destinations.length && (
        <Empty title={t.noDestinations}>
          <p>{t.noDestinationsText}</p>
        </Empty>
      )}
      {destinations.length > 0 && <DestinationTable id={id} destinations={destinations} onEdit={setEdited} />}
      {edited && traces.data && (
        <DestinationDialog
          id={id}
          services={traces.data.services}
          previous={edited === true ? undefined : edited}
          names={destinations.map(({ name }) => name)}
          onClose={() => setEdited(null)}
        />
      )}
    </Card>
  );
};

const DestinationTable = ({
  id,
  destinations,
  onEdit,
}: {
  id: string;
  destinations: Destination[];
  onEdit: (destination: Destination) => void;
}) => {
  const { t, number } = useChosen();
  const serviceLabel = useServiceLabel();
  const change = useDo(
    (destination: Destination, is: boolean) => api.saveTrace(id, destination.name, switched(destination, is)),
    ["traces"],
    t.saved,
  );
  const remove = useDo((name: string) => api.removeTrace(id, name), ["traces"], t.removed);
  return (
    <Table
      caption={t.traces}
      rows={destinations}
      id={(row) => row.name}
      columns={[
        { title: t.name, cell: (row) => row.name },
        {
          title: t.traceService,
          cell: (row) => (
            <>
              {serviceLabel(row.service)}
              {row.project && ` · ${row.project}`}
              <br />
              <code className="small">{row.url}</code>
            </>
          ),
        },
        { title: t.traceContent, cell: (row) => (row.content ? t.yes : t.no) },
        {
          title: t.tracesSent,
          cell: (row) => (
            <>
              {filled(t.sentAndDropped, { sent: number(row.sent), dropped: number(row.dropped) })}
              {row.error && <p className="wrong small">{row.error}</p>}
            </>
          ),
        },
        {
          title: t.state,
          cell: (row) => <Switch label={t.on} isOn={row.is_enabled} onChange={(is) => void change.run(row, is)} />,
        },
        {
          title: t.actions,
          cell: (row) => (
            <>
              <Changes name={row.name} onEdit={() => onEdit(row)} onRemove={() => remove.run(row.name)} />
              <TraceTest id={id} destination={row} />
            </>
          ),
        },
      ]}
    />
  );
};

const TraceTest = ({ id, destination }: { id: string; destination: Destination }) => {
  const { t } = useChosen();
  const test = useDo(() => api.testTrace(id, destination.name));
  return (
    <div className="row tight">
      <button
        type="button"
        disabled={!destination.is_enabled || test.isBusy}
        aria-label={filled(t.testNamed, { name: destination.name })}
        onClick={() => void test.run()}
      >
        {t.sendTest}
      </button>
      {/* It stands there before it says anything, so that screen readers hear it. */}
      <span role="status">{!test.isBusy && test.data && <TraceTestResult result={test.data} />}</span>
    </div>
  );
};

export const TraceTestResult = ({ result }: { result: Shape<"TraceTestView"> }) => {
  const { t } = useChosen();
  return <span className={result.accepted ? "status good" : "wrong small"}>{result.error || t.testAccepted}</span>;
};

interface DestinationOptions {
  id: string;
  services: Service[];
  previous: Destination | undefined;
  // Of all destinations: a new one must not replace another.
  names: string[];
  onClose: () => void;
}

const DestinationDialog = ({ id, services, previous, names, onClose }: DestinationOptions) => {
  const { t } = useChosen();
  const serviceOf = (name: string) => services.find((service) => service.name === name);
  const [form, setForm] = useState(() =>
    previous ? formOf(previous, serviceOf(previous.service)) : newForm(services[0]),
  );
  const put = (change: Partial<TraceForm>) => setForm((before) => ({ ...before, ...change }));
  const save = useDo(() => api.saveTrace(id, form.name.trim(), inputOf(form, previous)), ["traces"], t.saved);
  const isTaken = !previous && names.includes(form.name.trim());
  return (
    <Dialog title={previous ? filled(t.detailsOf, { name: previous.name }) : t.addDestination} isOpen onClose={onClose}>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          if (!isTaken) void save.run().then((saved) => saved && onClose());
        }}
      >
        <ServiceFields
          form={form}
          services={services}
          onChange={put}
          onService={(name) => setForm((before) => withService(before, serviceOf(name)))}
        />
        <Field label={t.name} help={isTaken ? <span className="wrong">{t.nameTaken}</span> : undefined}>
          <input
            required
            readOnly={previous !== undefined}
            maxLength={60}
            value={form.name}
            onChange={(event) => put({ name: event.target.value })}
          />
        </Field>
        <CredentialFields form={form} service={serviceOf(form.service)} previous={previous} onChange={put} />
        <label className="check">
          <input type="checkbox" checked={form.content} onChange={(event) => put({ content: event.target.checked })} />{" "}
          {t.traceContent}
        </label>
        <label className="check">
          <input
            type="checkbox"
            checked={form.is_enabled}
            onChange={(event) => put({ is_enabled: event.target.checked })}
          />{" "}
          {t.on}
        </label>
        {save.error && <Trouble of={[save]} />}
        <div className="row">
          <button type="submit" className="primary" disabled={save.isBusy || isTaken}>
            {t.save}
          </button>
          <button type="button" onClick={onClose}>
            {t.cancel}
          </button>
        </div>
      </form>
    </Dialog>
  );
};

const ServiceFields = ({
  form,
  services,
  onChange,
  onService,
}: {
  form: TraceForm;
  services: Service[];
  onChange: (change: Partial<TraceForm>) => void;
  onService: (name: string) => void;
}) => {
  const { t } = useChosen();
  const serviceLabel = useServiceLabel();
  const address = services.find((service) => service.name === form.service)?.default_url ?? "";
  return (
    <>
      <Pick
        label={t.traceService}
        value={form.service}
        onChange={onService}
        options={services.map((service) => [service.name, serviceLabel(service.name)] as const)}
      />
      <Field
        label={address ? `${t.fields.address} (${t.optional})` : t.fields.address}
        help={address ? filled(t.otherwise, { value: address }) : t.traceAddressHelp}
      >
        <input
          type="url"
          required={!address}
          placeholder={address || "https://"}
          value={form.base_url}
          onChange={(event) => onChange({ base_url: event.target.value })}
        />
      </Field>
      <Field label={`${t.traceProject} (${t.optional})`} help={t.traceProjectHelp}>
        <input value={form.project} onChange={(event) => onChange({ project: event.target.value })} />
      </Field>
    </>
  );
};

export const CredentialFields = ({
  form,
  service,
  previous,
  onChange,
}: {
  form: TraceForm;
  service: Service | undefined;
  previous: Destination | undefined;
  onChange: (change: Partial<TraceForm>) => void;
}) => {
  const { t } = useChosen();
  const labels = t.traceCredentials as Record<string, string>;
  const put = (index: number, entry: [string, string]) =>
    onChange({ credentials: replaceAt(form.credentials, index, entry) });
  const keepHelp = keepsCredentials(form, previous) ? t.keepSecrets : undefined;
  if (service?.takes_headers)
    return (
      <fieldset>
        <legend>{t.requestHeaders}</legend>
        {keepHelp && <p className="soft small">{keepHelp}</p>}
        {form.credentials.map(([name, value], index) => (
          <div className="row tight" key={index}>
            <Field label={t.headerName}>
              <input className="short" value={name} onChange={(event) => put(index, [event.target.value, value])} />
            </Field>
            <Field label={t.value}>
              <input
                type="password"
                autoComplete="off"
                value={value}
                onChange={(event) => put(index, [name, event.target.value])}
              />
            </Field>
            <button
              type="button"
              className="icon"
              aria-label={filled(t.removeNamed, { name: name || index + 1 })}
              onClick={() => onChange({ credentials: removeAt(form.credentials, index) })}
            >
              ×
            </button>
          </div>
        ))}
        <button type="button" onClick={() => onChange({ credentials: [...form.credentials, ["", ""]] })}>
          {t.add}
        </button>
      </fieldset>
    );
  return form.credentials.map(([name, value], index) => {
    const isOptional = service?.optional.includes(name) ?? false;
    const label = labels[name] ?? name;
    return (
      <Field key={name} label={isOptional ? `${label} (${t.optional})` : label} help={keepHelp}>
        <input
          // A workspace is no secret; a key is one.
          type={name === "workspace" ? "text" : "password"}
          autoComplete="off"
          required={isRequired(name, form, service, previous)}
          value={value}
          onChange={(event) => put(index, [name, event.target.value])}
        />
      </Field>
    );
  });
};
