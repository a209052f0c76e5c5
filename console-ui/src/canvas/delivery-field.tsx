// The ways in which people learn of a form.
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api } from "../api";
import { Field } from "../components/base";
import { Choose } from "../components/menu";
import { removeAt, replaceAt } from "../lists";
import { filled } from "../messages";
import { useMay } from "../permissions";
import { useChosen } from "../settings";
import { type NodeContext, TemplateField, type Valued } from "./controls";
import {
  addressesIn,
  addressesOf,
  isForEveryone,
  membersOf,
  newMethod,
  withAddresses,
  withEveryone,
  withMember,
  withoutMember,
} from "./delivery";
import { asObject, asObjects, type JsonObject } from "./file";
import { newId } from "./templates";

export const DeliveryField = ({ label, value, onChange, within }: Valued & { within: NodeContext }) => {
  const { t } = useChosen();
  const methods = asObjects(value);
  const ways = t.deliveryTypes as Record<string, string>;
  return (
    <fieldset>
      <legend>{label}</legend>
      <p className="soft small">{t.deliveryText}</p>
      {methods.map((method, index) => (
        <div className="card tight" key={String(method.id ?? index)}>
          <label className="check">
            <input
              type="checkbox"
              checked={method.enabled !== false}
              onChange={(event) => onChange(replaceAt(methods, index, { ...method, enabled: event.target.checked }))}
            />{" "}
            {ways[String(method.type)] ?? String(method.type)}
          </label>
          {method.type === "email" && (
            <MailForm
              config={asObject(method.config)}
              onChange={(config) => onChange(replaceAt(methods, index, { ...method, config }))}
              within={within}
            />
          )}
          <button type="button" onClick={() => onChange(removeAt(methods, index))}>
            {t.remove}
          </button>
        </div>
      ))}
      <Choose
        label={t.addDelivery}
        items={(["webapp", "email"] as const).map((type) => [type, t.deliveryTypes[type]] as const)}
        onChoose={(type) => onChange([...methods, newMethod(type, newId())])}
      />
    </fieldset>
  );
};

interface MailOptions {
  config: JsonObject;
  onChange: (config: JsonObject) => void;
}

const MailForm = ({ config, onChange, within }: MailOptions & { within: NodeContext }) => {
  const { t } = useChosen();
  return (
    <div className="form">
      <MailState />
      <AddressesField config={config} onChange={onChange} />
      <MembersField config={config} onChange={onChange} />
      <label className="check">
        <input
          type="checkbox"
          checked={isForEveryone(config)}
          onChange={(event) => onChange(withEveryone(config, event.target.checked))}
        />{" "}
        {t.everyAccount}
      </label>
      <TemplateField
        label={t.fields.subject}
        value={config.subject}
        onChange={(subject) => onChange({ ...config, subject })}
        within={within}
      />
      <TemplateField
        label={t.fields.mailBody}
        value={config.body}
        onChange={(body) => onChange({ ...config, body })}
        within={within}
      />
      <p className="soft small">{t.mailBodyHelp}</p>
      <label className="check">
        <input
          type="checkbox"
          checked={config.debug_mode === true}
          onChange={(event) => onChange({ ...config, debug_mode: event.target.checked })}
        />{" "}
        {t.debugMail}
      </label>
    </div>
  );
};

// Said where mails are set up, and not only once nobody got one.
const MailState = () => {
  const about = useQuery({ queryKey: ["about"], queryFn: api.about, staleTime: 15_000 });
  return about.data?.mail_problem ? <p className="wrong small">{about.data.mail_problem}</p> : null;
};

// The text that is typed stays as it is, with its line breaks, as long as it means what the file has.
const AddressesField = ({ config, onChange }: MailOptions) => {
  const { t } = useChosen();
  const addresses = addressesOf(config);
  const [typed, setTyped] = useState(addresses.join("\n"));
  const isSame = addressesIn(typed).join("\n") === [...new Set(addresses)].join("\n");
  return (
    <Field label={t.addresses} help={t.oneALine}>
      <textarea
        rows={3}
        inputMode="email"
        spellCheck={false}
        value={isSame ? typed : addresses.join("\n")}
        onChange={(event) => {
          setTyped(event.target.value);
          onChange(withAddresses(config, addressesIn(event.target.value)));
        }}
      />
    </Field>
  );
};

// Accounts of this server. The list is an administrator's; what a file names is shown to everybody.
const MembersField = ({ config, onChange }: MailOptions) => {
  const { t } = useChosen();
  const { may } = useMay();
  const accounts = useQuery({
    queryKey: ["accounts"],
    queryFn: api.accounts,
    enabled: may("admin"),
    retry: false,
    staleTime: 60_000,
  });
  const members = membersOf(config);
  const nameOf = (id: string) => {
    const account = accounts.data?.find((candidate) => candidate.id === id);
    return account ? `${account.name} (${account.email})` : accounts.data ? `${id} (${t.notHere})` : id;
  };
  const others = (accounts.data ?? []).filter((account) => !members.includes(account.id));
  if (!members.length && !others.length) return null;
  return (
    <fieldset>
      <legend>{t.accounts}</legend>
      <ul className="plain">
        {members.map((id) => (
          <li key={id} className="row tight">
            {nameOf(id)}
            <button
              type="button"
              className="icon"
              aria-label={filled(t.removeNamed, { name: nameOf(id) })}
              onClick={() => onChange(withoutMember(config, id))}
            >
              ×
            </button>
          </li>
        ))}
      </ul>
      {others.length > 0 && (
        <Choose
          label={t.addAccount}
          items={others.map((account) => [account.id, `${account.name} (${account.email})`] as const)}
          onChoose={(id) => onChange(withMember(config, id))}
        />
      )}
    </fieldset>
  );
};
