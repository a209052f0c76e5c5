import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { actingFor, api, type Shape } from "../api";
import { useDo } from "../components/actions";
import { PageTabs, Switch } from "../components/aria";
import { Card, Copied, Empty, Field, Page, Pick, Trouble } from "../components/base";
import { Dialog, Sure } from "../components/dialog";
import { Table } from "../components/table";
import { filled } from "../messages";
import { useMay, useWho } from "../permissions";
import { useChosen } from "../settings";
import { Enter } from "./enter";
import { LimitForm } from "./routes";

const ROLES = ["owner", "admin", "editor", "developer", "viewer"] as const;

export const Keys = () => {
  const { t } = useChosen();
  const { isOperator } = useMay();
  return (
    <Page title={t.keysAndPeople} text={t.keysText}>
      <PageTabs
        label={t.keysAndPeople}
        tabs={[
          { id: "keys", title: t.apiKeys, body: () => <KeyList /> },
          { id: "people", title: t.people, body: () => <People /> },
          { id: "users", title: t.endUsers, body: () => <Users /> },
          ...(isOperator && !actingFor() ? [{ id: "tenants", title: t.tenants, body: () => <Tenants /> }] : []),
          { id: "sessions", title: t.sessions, body: () => <Sessions /> },
          { id: "audit", title: t.audit, body: () => <Audit /> },
        ]}
      />
    </Page>
  );
};

const now = () => Date.now() / 1000;

const KeyList = () => {
  const { t } = useChosen();
  const keys = useQuery({ queryKey: ["keys"], queryFn: () => api.all("keys") });
  const who = useWho();
  const [isAdding, setAdding] = useState(false);
  const [isProtecting, setProtecting] = useState(false);
  const [created, setCreated] = useState<Shape<"CreatedKey"> | null>(null);
  return (
    <Card
      title={t.apiKeys}
      actions={
        <button
          type="button"
          className="primary"
          onClick={() => (who.data?.mode === "single" ? setProtecting(true) : setAdding(true))}
        >
          {t.makeKey}
        </button>
      }
    >
      <Trouble of={[keys]} />
      <Dialog title={t.protectFirst} isOpen={isProtecting} onClose={() => setProtecting(false)}>
        <p>{t.protectFirstText}</p>
        <Enter
          isFirst
          isWithin
          onDone={() => {
            setProtecting(false);
            setAdding(true);
          }}
        />
      </Dialog>
      {keys.data && !keys.data.length && (
        <Empty title={t.noKeys}>
          <p>{t.noKeysText}</p>
        </Empty>
      )}
      {(keys.data?.length ?? 0) > 0 && <KeyTable keys={keys.data!} onCreated={setCreated} />}
      {isAdding && <KeyForm onClose={() => setAdding(false)} onMade={setCreated} />}
      <NewKeyDialog created={created} onClose={() => setCreated(null)} />
    </Card>
  );
};

const KeyTable = ({ keys, onCreated }: { keys: Shape<"KeyView">[]; onCreated: (key: Shape<"CreatedKey">) => void }) => {
  const { t, money, number } = useChosen();
  const usage = useQuery({ queryKey: ["usage", "key"], queryFn: () => api.usage("key", now() - 30 * 86_400) });
  const [limitedKey, setLimitedKey] = useState("");
  const usageCell = (row: Shape<"KeyView">) => {
    const used = usage.data?.find((sum) => sum.key === row.id);
    return used ? `${number(used.calls)} · ${money(used.cost, used.currency)}` : "–";
  };
  return (
    <>
      <Table
        caption={t.apiKeys}
        rows={keys}
        id={(row) => row.id}
        columns={[
          {
            title: t.name,
            cell: (row) => (
              <>
                {row.name} <code className="soft small">{row.hint}</code>
              </>
            ),
          },
          { title: t.role, cell: (row) => (t.roles as Record<string, string>)[row.role] },
          { title: t.mayCall, cell: (row) => row.models.join(", ") || t.all },
          { title: t.state, cell: (row) => <KeyState row={row} /> },
          { title: t.thirtyDays, cell: usageCell, isNumber: true },
          {
            title: t.actions,
            cell: (row) => <KeyActions row={row} onCreated={onCreated} onLimit={() => setLimitedKey(row.id)} />,
          },
        ]}
      />
      {limitedKey && <LimitForm known={null} forKey={limitedKey} onClose={() => setLimitedKey("")} />}
    </>
  );
};

const KeyState = ({ row }: { row: Shape<"KeyView"> }) => {
  const { t, day } = useChosen();
  if (row.revoked_at) return <span className="wrong">{t.revokedKey}</span>;
  if (!row.expires_at) return <span>{t.valid}</span>;
  const isExpired = row.expires_at < now();
  return <span>{isExpired ? t.expiredKey : filled(t.until, { day: day(row.expires_at) })}</span>;
};

const KeyActions = ({
  row,
  onCreated,
  onLimit,
}: {
  row: Shape<"KeyView">;
  onCreated: (key: Shape<"CreatedKey">) => void;
  onLimit: () => void;
}) => {
  const { t } = useChosen();
  const revoke = useDo((id: string) => api.post<unknown>(`/admin/v1/keys/${id}/revoke`, "POST"), ["keys"], t.revoked);
  const rotate = useDo(
    (id: string) => api.post<Shape<"CreatedKey">>(`/admin/v1/keys/${id}/rotate`, "POST", { grace_seconds: 3600 }),
    ["keys"],
  );
  const remove = useDo((id: string) => api.remove("keys", id), ["keys"], t.removed);
  const onRotate = async () => {
    const created = await rotate.run(row.id);
    if (created) onCreated(created);
  };
  if (row.revoked_at)
    return (
      <div className="row tight">
        <Sure label={t.remove} question={filled(t.sureRemove, { name: row.name })} onSure={() => remove.run(row.id)} />
      </div>
    );
  return (
    <div className="row tight">
      <button type="button" onClick={onLimit}>
        {t.setBudget}
      </button>
      <button type="button" onClick={() => void onRotate()}>
        {t.rotate}
      </button>
      <Sure label={t.revoke} question={filled(t.sureRevoke, { name: row.name })} onSure={() => revoke.run(row.id)} />
    </div>
  );
};

// The key itself, which the server shows once.
const NewKeyDialog = ({ created, onClose }: { created: Shape<"CreatedKey"> | null; onClose: () => void }) => {
  const { t } = useChosen();
  return (
    <Dialog title={t.newKey} isOpen={created !== null} onClose={onClose}>
      <p>{t.newKeyText}</p>
      <p>
        <code className="secret">{created?.key}</code>
      </p>
      <div className="row">
        <Copied text={created?.key ?? ""} />
        <button type="button" onClick={onClose}>
          {t.done}
        </button>
      </div>
    </Dialog>
  );
};

const KeyForm = ({ onClose, onMade }: { onClose: () => void; onMade: (key: Shape<"CreatedKey">) => void }) => {
  const { t } = useChosen();
  const [form, set] = useState({ name: "", role: "developer", models: "", user: "", days: "" });
  const put = (more: Partial<typeof form>) => set((before) => ({ ...before, ...more }));
  const save = useDo(
    () =>
      api.make("keys", {
        name: form.name,
        role: form.role as "developer",
        models: form.models
          .split(",")
          .map((model) => model.trim())
          .filter(Boolean),
        ...(form.user ? { user: form.user } : {}),
        ...(form.days ? { expires_at: Date.now() / 1000 + Number(form.days) * 86_400 } : {}),
      }),
    ["keys"],
  );
  return (
    <Dialog title={t.makeKey} isOpen onClose={onClose}>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void save.run().then((created) => {
            if (created) {
              onMade(created);
              onClose();
            }
          });
        }}
      >
        <Field label={t.name}>
          <input required value={form.name} onChange={(event) => put({ name: event.target.value })} />
        </Field>
        <Pick
          label={t.role}
          value={form.role}
          onChange={(role) => put({ role })}
          options={ROLES.map((role) => [role, t.roles[role]] as const)}
        />
        <Field label={t.mayCall} help={t.patternsHelp}>
          <input
            value={form.models}
            placeholder="openai/*, local/*"
            onChange={(event) => put({ models: event.target.value })}
          />
        </Field>
        <Field label={t.forUser}>
          <input value={form.user} onChange={(event) => put({ user: event.target.value })} />
        </Field>
        <Field label={t.validDays} help={t.emptyForever}>
          <input type="number" min={1} value={form.days} onChange={(event) => put({ days: event.target.value })} />
        </Field>
        <button className="primary" type="submit" disabled={save.isBusy}>
          {t.makeKey}
        </button>
      </form>
    </Dialog>
  );
};

const People = () => {
  const { t } = useChosen();
  const who = useWho();
  const accounts = useQuery({
    queryKey: ["accounts"],
    queryFn: api.accounts,
    retry: false,
    enabled: who.data?.mode === "accounts",
  });
  const [form, set] = useState({ email: "", role: "developer" });
  const invite = useDo(() => api.invite(form.email, form.role), ["accounts"]);
  const change = useDo(
    (id: string, value: { role?: string; is_enabled?: boolean }) => api.changeAccount(id, value),
    ["accounts"],
    t.saved,
  );
  if (who.data && who.data.mode !== "accounts")
    return (
      <Card title={t.people}>
        <Empty title={t.singleMode}>
          <p>{t.singleModeText}</p>
        </Empty>
      </Card>
    );
  const link = invite.data ? `${location.origin}/console/invitation#${invite.data.token}` : "";
  return (
    <Card title={t.people}>
      <Trouble of={[accounts]} />
      <Table
        caption={t.people}
        rows={accounts.data ?? []}
        id={(row) => row.id}
        columns={[
          {
            title: t.name,
            cell: (row) => (
              <>
                {row.name} <span className="soft">{row.email}</span>
              </>
            ),
          },
          {
            title: t.role,
            cell: (row) => (
              <select
                aria-label={filled(t.roleOf, { name: row.name })}
                value={row.role}
                onChange={(event) => void change.run(row.id, { role: event.target.value })}
              >
                {ROLES.map((role) => (
                  <option key={role} value={role}>
                    {t.roles[role]}
                  </option>
                ))}
              </select>
            ),
          },
          {
            title: t.state,
            cell: (row) => (
              <Switch
                label={t.mayEnter}
                isOn={row.is_enabled !== false}
                onChange={(is) => void change.run(row.id, { is_enabled: is })}
                isDisabled={row.id === who.data?.account?.id}
              />
            ),
          },
        ]}
      />
      <form
        className="row"
        onSubmit={(event) => {
          event.preventDefault();
          void invite.run();
        }}
      >
        <Field label={t.email}>
          <input
            type="email"
            required
            value={form.email}
            onChange={(event) => set({ ...form, email: event.target.value })}
          />
        </Field>
        <Pick
          label={t.role}
          value={form.role}
          onChange={(role) => set({ ...form, role })}
          options={ROLES.map((role) => [role, t.roles[role]] as const)}
        />
        <button type="submit" className="primary" disabled={invite.isBusy}>
          {t.invite}
        </button>
      </form>
      {link && (
        <p>
          {t.inviteText} <code>{link}</code> <Copied text={link} />
        </p>
      )}
    </Card>
  );
};

const Users = () => {
  const { t, number, money } = useChosen();
  const users = useQuery({ queryKey: ["users"], queryFn: () => api.all("users") });
  const usage = useQuery({
    queryKey: ["usage", "user"],
    queryFn: () => api.usage("user", Date.now() / 1000 - 30 * 86_400),
  });
  const [name, setName] = useState("");
  const add = useDo(() => api.make("users", { name }), ["users"], t.saved);
  const change = useDo((id: string, is: boolean) => api.change("users", id, { is_enabled: is }), ["users"]);
  const remove = useDo((id: string) => api.remove("users", id), ["users"], t.removed);
  return (
    <Card title={t.endUsers}>
      <p className="soft">{t.endUsersText}</p>
      <Trouble of={[users]} />
      {(users.data?.length ?? 0) > 0 && (
        <Table
          caption={t.endUsers}
          rows={users.data!}
          id={(row) => row.id}
          columns={[
            { title: t.name, cell: (row) => row.name },
            {
              title: t.thirtyDays,
              cell: (row) => {
                const used = usage.data?.find((sum) => sum.user === row.name);
                return used ? `${number(used.calls)} · ${money(used.cost, used.currency)}` : "–";
              },
              isNumber: true,
            },
            {
              title: t.state,
              cell: (row) => (
                <Switch label={t.on} isOn={row.is_enabled} onChange={(is) => void change.run(row.id, is)} />
              ),
            },
            {
              title: t.actions,
              cell: (row) => (
                <Sure
                  label={t.remove}
                  question={filled(t.sureRemove, { name: row.name })}
                  onSure={() => remove.run(row.id)}
                />
              ),
            },
          ]}
        />
      )}
      <form
        className="row"
        onSubmit={(event) => {
          event.preventDefault();
          void add.run().then(() => setName(""));
        }}
      >
        <Field label={t.name}>
          <input required value={name} onChange={(event) => setName(event.target.value)} />
        </Field>
        <button type="submit" disabled={add.isBusy}>
          {t.add}
        </button>
      </form>
    </Card>
  );
};

const Tenants = () => {
  const { t, day } = useChosen();
  const tenants = useQuery({ queryKey: ["tenants"], queryFn: () => api.all("tenants") });
  const [name, setName] = useState("");
  const add = useDo(() => api.make("tenants", { name }), ["tenants"], t.saved);
  const change = useDo((id: string, is: boolean) => api.change("tenants", id, { is_enabled: is }), ["tenants"]);
  return (
    <Card title={t.tenants}>
      <p className="soft">{t.tenantsText}</p>
      <Trouble of={[tenants]} />
      <Table
        caption={t.tenants}
        rows={tenants.data ?? []}
        id={(row) => row.id}
        columns={[
          { title: t.name, cell: (row) => row.name },
          { title: t.since, cell: (row) => (row.created_at ? day(row.created_at) : "–") },
          {
            title: t.state,
            cell: (row) => (
              <Switch
                label={t.on}
                isOn={row.is_enabled}
                isDisabled={row.id === "default"}
                onChange={(is) => void change.run(row.id, is)}
              />
            ),
          },
        ]}
      />
      <form
        className="row"
        onSubmit={(event) => {
          event.preventDefault();
          void add.run().then(() => setName(""));
        }}
      >
        <Field label={t.name} help={t.tenantNameHelp}>
          <input
            required
            pattern="[a-z0-9][a-z0-9\-]*"
            value={name}
            onChange={(event) => setName(event.target.value)}
          />
        </Field>
        <button type="submit" disabled={add.isBusy}>
          {t.add}
        </button>
      </form>
    </Card>
  );
};

const Sessions = () => {
  const { t, time } = useChosen();
  const who = useWho();
  const sessions = useQuery({
    queryKey: ["sessions"],
    queryFn: api.sessions,
    retry: false,
    enabled: !!who.data?.account,
  });
  const end = useDo((id: string) => api.endSession(id), ["sessions"], t.ended);
  if (who.data && !who.data.account)
    return (
      <Card title={t.sessions}>
        <Empty title={t.singleMode} />
      </Card>
    );
  return (
    <Card title={t.sessions}>
      <Trouble of={[sessions]} />
      <Table
        caption={t.sessions}
        rows={sessions.data ?? []}
        id={(row) => row.id}
        columns={[
          { title: t.browser, cell: (row) => row.agent.slice(0, 90) },
          { title: t.since, cell: (row) => time(row.created_at) },
          {
            title: t.actions,
            cell: (row) =>
              row.is_current ? (
                t.thisOne
              ) : (
                <button type="button" onClick={() => void end.run(row.id)}>
                  {t.endIt}
                </button>
              ),
          },
        ]}
      />
    </Card>
  );
};

const Audit = () => {
  const { t, time } = useChosen();
  const audit = useQuery({ queryKey: ["audit"], queryFn: api.audit, retry: false });
  return (
    <Card title={t.audit}>
      <p className="soft">{t.auditText}</p>
      <Trouble of={[audit]} />
      {audit.data && !audit.data.length ? (
        <Empty title={t.noChanges} />
      ) : (
        <Table
          caption={t.audit}
          rows={(audit.data ?? []).map((entry, at) => ({ ...entry, at_: at }))}
          id={(row) => String(row.at_)}
          columns={[
            { title: t.when, cell: (row) => time(row.at) },
            { title: t.who, cell: (row) => row.who },
            { title: t.what, cell: (row) => row.what },
          ]}
        />
      )}
    </Card>
  );
};
