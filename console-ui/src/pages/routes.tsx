import { useQuery } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { api, type Shape } from "../api";
import { useDo } from "../components/actions";
import { Changes, PageTabs } from "../components/aria";
import { Card, Empty, Field, Meter, Page, Pick, SetByOperator, Trouble } from "../components/base";
import { Dialog } from "../components/dialog";
import { ModelPick, useModels } from "../components/models";
import { Table } from "../components/table";
import { removeAt, replaceAt } from "../lists";
import { filled } from "../messages";
import { useMay } from "../permissions";
import { useChosen } from "../settings";

const STRATEGIES = ["round_robin", "weighted", "least_in_flight", "lowest_latency", "lowest_cost", "random"] as const;
const UNITS = ["requests", "tokens", "cost", "concurrency"] as const;
const WINDOWS = ["minute", "hour", "day", "month", "total"] as const;
const PER = ["tenant", "key", "user", "model"] as const;

export const Routes = () => {
  const { t } = useChosen();
  return (
    <Page title={t.routesAndLimits} text={t.routesText}>
      <PageTabs
        label={t.routesAndLimits}
        tabs={[
          { id: "routes", title: t.routes, body: () => <RouteList /> },
          { id: "limits", title: t.limits, body: () => <LimitList /> },
          { id: "dry-run", title: t.dryRun, body: () => <DryRun /> },
        ]}
      />
    </Page>
  );
};

const RouteList = () => {
  const { t } = useChosen();
  const { isKept } = useMay();
  const routes = useQuery({ queryKey: ["routes"], queryFn: () => api.all("routes") });
  const [editing, setEditing] = useState<Shape<"RouteView"> | "new" | null>(null);
  const remove = useDo((id: string) => api.remove("routes", id), ["routes", "plan"], t.removed);
  return (
    <Card
      title={t.routes}
      actions={
        <button type="button" className="primary" onClick={() => setEditing("new")}>
          {t.addRoute}
        </button>
      }
    >
      <Trouble of={[routes]} />
      {routes.data && !routes.data.length && (
        <Empty title={t.noRoutes}>
          <p>{t.noRoutesText}</p>
        </Empty>
      )}
      {(routes.data?.length ?? 0) > 0 && (
        <Table
          caption={t.routes}
          rows={routes.data!}
          id={(row) => row.id}
          columns={[
            { title: t.name, cell: (row) => <code>{row.name}</code> },
            { title: t.targets, cell: (row) => row.targets.map((target) => target.model).join(", ") },
            {
              title: t.strategy,
              cell: (row) => (t.strategies as Record<string, string>)[row.strategy] ?? row.strategy,
            },
            { title: t.failover, cell: (row) => row.failover.join(" → ") || "–" },
            {
              title: t.actions,
              cell: (row) =>
                isKept(row) ? (
                  <SetByOperator />
                ) : (
                  <Changes name={row.name} onEdit={() => setEditing(row)} onRemove={() => remove.run(row.id)} />
                ),
            },
          ]}
        />
      )}
      {editing && <RouteForm known={editing === "new" ? null : editing} onClose={() => setEditing(null)} />}
    </Card>
  );
};

type Target = Shape<"RouteView">["targets"][number];
interface RouteValues {
  name: string;
  strategy: string;
  sticky: string;
  cache: string;
  targets: Target[];
  failover: string[];
}
interface RouteFieldOptions {
  form: RouteValues;
  put: (change: Partial<RouteValues>) => void;
}

const NEW_TARGET: Target = { model: "", weight: 1, priority: 0 };

const useRouteForm = (known: Shape<"RouteView"> | null) => {
  const { t } = useChosen();
  const [form, setForm] = useState<RouteValues>(() => ({
    name: known?.name ?? "",
    strategy: known?.strategy ?? "round_robin",
    sticky: known?.sticky ?? "",
    cache: String(known?.cache_seconds ?? 0),
    targets: known?.targets ?? [NEW_TARGET],
    failover: known?.failover ?? [],
  }));
  const put = (change: Partial<RouteValues>) => setForm((before) => ({ ...before, ...change }));
  const save = useDo(
    () => {
      const value = {
        name: form.name,
        strategy: form.strategy as "random",
        sticky: form.sticky as "",
        cache_seconds: Number(form.cache) || 0,
        targets: form.targets.filter((target) => target.model),
        failover: form.failover.filter(Boolean),
      };
      return known ? api.change("routes", known.id, value) : api.make("routes", value);
    },
    ["routes", "plan"],
    t.saved,
  );
  return { form, put, save };
};

const RouteForm = ({ known, onClose }: { known: Shape<"RouteView"> | null; onClose: () => void }) => {
  const { t } = useChosen();
  const models = useModels("llm");
  const { form, put, save } = useRouteForm(known);
  const onSubmit = async (event: FormEvent) => {
    event.preventDefault();
    if (await save.run()) onClose();
  };
  return (
    <Dialog title={known ? known.name : t.addRoute} isOpen onClose={onClose} isWide>
      <form className="form" onSubmit={(event) => void onSubmit(event)}>
        <Field label={t.name} help={t.routeNameHelp}>
          <input required value={form.name} onChange={(event) => put({ name: event.target.value })} />
        </Field>
        <datalist id="models">
          {(models.data ?? []).map(({ id }) => (
            <option key={id} value={id} />
          ))}
        </datalist>
        <Targets form={form} put={put} />
        <Failover form={form} put={put} />
        <RouteOptions form={form} put={put} />
        <button className="primary" type="submit" disabled={save.isBusy}>
          {t.save}
        </button>
      </form>
    </Dialog>
  );
};

const Targets = ({ form, put }: RouteFieldOptions) => {
  const { t } = useChosen();
  const { targets } = form;
  return (
    <fieldset>
      <legend>{t.targets}</legend>
      {targets.map((target, index) => (
        <TargetRow
          key={index}
          number={index + 1}
          target={target}
          onChange={(change) => put({ targets: replaceAt(targets, index, { ...target, ...change }) })}
          onRemove={targets.length > 1 ? () => put({ targets: removeAt(targets, index) }) : undefined}
        />
      ))}
      <button type="button" onClick={() => put({ targets: [...targets, NEW_TARGET] })}>
        {t.addTarget}
      </button>
    </fieldset>
  );
};

const TargetRow = ({
  number,
  target,
  onChange,
  onRemove,
}: {
  number: number;
  target: Target;
  onChange: (change: Partial<Target>) => void;
  // Undefined for the last target of a route.
  onRemove: (() => void) | undefined;
}) => {
  const { t } = useChosen();
  return (
    <div className="row">
      <Field label={filled(t.modelNumber, { number })}>
        <input
          list="models"
          required
          value={target.model}
          onChange={(event) => onChange({ model: event.target.value })}
        />
      </Field>
      <Field label={t.weight}>
        <input
          className="short"
          type="number"
          min={0}
          step="any"
          value={target.weight}
          onChange={(event) => onChange({ weight: Number(event.target.value) })}
        />
      </Field>
      <Field label={t.priority}>
        <input
          className="short"
          type="number"
          value={target.priority}
          onChange={(event) => onChange({ priority: Number(event.target.value) })}
        />
      </Field>
      {onRemove && (
        <button type="button" aria-label={filled(t.removeModel, { name: target.model || number })} onClick={onRemove}>
          ×
        </button>
      )}
    </div>
  );
};

const Failover = ({ form, put }: RouteFieldOptions) => {
  const { t } = useChosen();
  const { failover } = form;
  return (
    <fieldset>
      <legend>{t.failover}</legend>
      <p className="soft">{t.failoverHelp}</p>
      {failover.map((model, index) => (
        <div className="row" key={index}>
          <Field label={filled(t.thenTry, { number: index + 1 })}>
            <input
              list="models"
              value={model}
              onChange={(event) => put({ failover: replaceAt(failover, index, event.target.value) })}
            />
          </Field>
          <button
            type="button"
            aria-label={filled(t.removeModel, { name: model || index + 1 })}
            onClick={() => put({ failover: removeAt(failover, index) })}
          >
            ×
          </button>
        </div>
      ))}
      <button type="button" onClick={() => put({ failover: [...failover, ""] })}>
        {t.addFailover}
      </button>
    </fieldset>
  );
};

const RouteOptions = ({ form, put }: RouteFieldOptions) => {
  const { t } = useChosen();
  return (
    <div className="fields">
      <Pick
        label={t.strategy}
        value={form.strategy}
        onChange={(strategy) => put({ strategy })}
        options={STRATEGIES.map((strategy) => [strategy, t.strategies[strategy]] as const)}
      />
      <Pick
        label={t.sticky}
        value={form.sticky}
        onChange={(sticky) => put({ sticky })}
        options={[
          ["", t.no],
          ["user", t.perUser],
          ["prompt", t.perPrompt],
        ]}
      />
      <Field label={t.cacheSeconds} help={t.cacheHelp}>
        <input
          type="number"
          min={0}
          step="any"
          value={form.cache}
          onChange={(event) => put({ cache: event.target.value })}
        />
      </Field>
    </div>
  );
};

const LimitList = () => {
  const { t, number, money } = useChosen();
  const { isKept } = useMay();
  const limits = useQuery({ queryKey: ["limits"], queryFn: () => api.all("limits") });
  const keys = useQuery({ queryKey: ["keys"], queryFn: () => api.all("keys") });
  const budgets = useQuery({ queryKey: ["limits", "budgets"], queryFn: api.budgets, refetchInterval: 10_000 });
  const budgetOf = (row: Shape<"LimitView">) => budgets.data?.find((budget) => budget.id === row.id);
  const amountText = (row: Shape<"LimitView">, amount: number | null | undefined) => {
    if (amount === null || amount === undefined) return "–";
    if (row.unit === "cost") return money(amount, row.currency);
    return `${number(amount)} ${(t.units as Record<string, string>)[row.unit] ?? row.unit}`;
  };
  const [editing, setEditing] = useState<Shape<"LimitView"> | "new" | null>(null);
  const remove = useDo((id: string) => api.remove("limits", id), ["limits", "plan"], t.removed);
  return (
    <Card
      title={t.limits}
      actions={
        <button type="button" className="primary" onClick={() => setEditing("new")}>
          {t.addLimit}
        </button>
      }
    >
      <Trouble of={[limits, budgets]} />
      {limits.data && !limits.data.length && (
        <Empty title={t.noLimits}>
          <p>{t.noLimitsText}</p>
        </Empty>
      )}
      {(limits.data?.length ?? 0) > 0 && (
        <Table
          caption={t.limits}
          rows={limits.data!}
          id={(row) => row.id}
          columns={[
            { title: t.name, cell: (row) => row.name },
            { title: t.amount, cell: (row) => amountText(row, row.amount), isNumber: true },
            {
              title: t.used,
              cell: (row) => (
                <span className={budgetOf(row)?.is_spent ? "wrong" : ""}>{amountText(row, budgetOf(row)?.used)}</span>
              ),
              isNumber: true,
            },
            { title: t.left, cell: (row) => amountText(row, budgetOf(row)?.left), isNumber: true },
            { title: t.forecast, cell: (row) => amountText(row, budgetOf(row)?.forecast), isNumber: true },
            {
              title: t.window,
              cell: (row) => (row.unit === "concurrency" ? "–" : (t.windows as Record<string, string>)[row.window]),
            },
            { title: t.foreach, cell: (row) => (t.per as Record<string, string>)[row.per] },
            {
              title: t.onlyFor,
              cell: (row) =>
                [keys.data?.find((key) => key.id === row.key)?.name ?? row.key, row.user, row.model]
                  .filter(Boolean)
                  .join(", ") || t.everybody,
            },
            {
              title: t.actions,
              cell: (row) =>
                isKept(row) ? (
                  <SetByOperator />
                ) : (
                  <Changes name={row.name} onEdit={() => setEditing(row)} onRemove={() => remove.run(row.id)} />
                ),
            },
          ]}
        />
      )}
      {editing && <LimitForm known={editing === "new" ? null : editing} onClose={() => setEditing(null)} />}
    </Card>
  );
};

export const LimitForm = ({
  known,
  onClose,
  forKey = "",
}: {
  known: Shape<"LimitView"> | null;
  onClose: () => void;
  forKey?: string;
}) => {
  const { t } = useChosen();
  const keys = useQuery({ queryKey: ["keys"], queryFn: () => api.all("keys") });
  const [form, set] = useState(() => ({
    name: known?.name ?? "",
    unit: known?.unit ?? "cost",
    amount: String(known?.amount ?? ""),
    window: known?.window ?? "month",
    per: known?.per ?? (forKey ? "key" : "tenant"),
    key: known?.key ?? forKey,
    user: known?.user ?? "",
    model: known?.model ?? "",
    currency: known?.currency ?? "USD",
  }));
  const put = (more: Partial<typeof form>) => set((before) => ({ ...before, ...more }));
  const save = useDo(
    () => {
      const value = { ...form, amount: Number(form.amount) } as Partial<Shape<"LimitInput">> & { name: string };
      return known ? api.change("limits", known.id, value) : api.make("limits", value);
    },
    ["limits", "plan"],
    t.saved,
  );
  return (
    <Dialog title={known ? known.name : t.addLimit} isOpen onClose={onClose}>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void save.run().then((saved) => {
            if (saved) onClose();
          });
        }}
      >
        <Field label={t.name}>
          <input required value={form.name} onChange={(event) => put({ name: event.target.value })} />
        </Field>
        <div className="fields">
          <Pick
            label={t.unit}
            value={form.unit}
            onChange={(unit) => put({ unit })}
            options={UNITS.map((unit) => [unit, t.units[unit]] as const)}
          />
          <Field label={t.amount}>
            <input
              type="number"
              required
              min={0}
              step="any"
              value={form.amount}
              onChange={(event) => put({ amount: event.target.value })}
            />
          </Field>
          {form.unit === "cost" && (
            <Field label={t.currency}>
              <input
                maxLength={3}
                value={form.currency}
                onChange={(event) => put({ currency: event.target.value.toUpperCase() })}
              />
            </Field>
          )}
          {form.unit !== "concurrency" && (
            <Pick
              label={t.window}
              value={form.window}
              onChange={(window) => put({ window })}
              options={WINDOWS.map((window) => [window, t.windows[window]] as const)}
            />
          )}
          <Pick
            label={t.foreach}
            value={form.per}
            onChange={(per) => put({ per })}
            options={PER.map((scope) => [scope, t.per[scope]] as const)}
          />
          <Pick
            label={t.onlyKey}
            value={form.key}
            onChange={(key) => put({ key })}
            options={[["", t.everybody], ...(keys.data ?? []).map((key) => [key.id, key.name] as const)]}
          />
          <Field label={t.onlyUser}>
            <input value={form.user} onChange={(event) => put({ user: event.target.value })} />
          </Field>
          <Field label={t.onlyModel} help={t.patternHelp}>
            <input value={form.model} placeholder="openai/*" onChange={(event) => put({ model: event.target.value })} />
          </Field>
        </div>
        <button className="primary" type="submit" disabled={save.isBusy}>
          {t.save}
        </button>
      </form>
    </Dialog>
  );
};

const DryRun = () => {
  const { t, number, span } = useChosen();
  const [form, set] = useState({ model: "default", user: "", key: "" });
  const keys = useQuery({ queryKey: ["keys"], queryFn: () => api.all("keys") });
  const plan = useQuery({ queryKey: ["plan", form], queryFn: () => api.plan(form) });
  const decision = plan.data;
  return (
    <Card title={t.dryRun}>
      <p className="soft">{t.dryRunText}</p>
      <div className="row">
        <ModelPick type="llm" value={form.model} onChange={(model) => set({ ...form, model })} />
        <Field label={t.user}>
          <input value={form.user} onChange={(event) => set({ ...form, user: event.target.value })} />
        </Field>
        <Pick
          label={t.key}
          value={form.key}
          onChange={(key) => set({ ...form, key })}
          options={[["", "–"], ...(keys.data ?? []).map((key) => [key.id, key.name] as const)]}
        />
      </div>
      <Trouble of={[plan]} />
      {decision && (
        <ol className="plan">
          {decision.groups.map((group, at) => (
            <li key={at}>
              <p>
                <strong>
                  {group.why === "failover"
                    ? t.thenFailover
                    : group.why === "route"
                      ? filled(t.byRoute, { name: decision.route })
                      : t.theModel}
                </strong>{" "}
                <span className="soft">{(t.strategies as Record<string, string>)[group.strategy]}</span>
              </p>
              {!group.deployments.length && <p className="wrong">{t.noDeployment}</p>}
              {group.deployments.length > 0 && (
                <Table
                  caption={`${at + 1}`}
                  rows={group.deployments}
                  id={(row) => `${row.model} ${row.credential}`}
                  columns={[
                    { title: t.model, cell: (row) => <code>{row.model}</code> },
                    { title: t.credential, cell: (row) => row.credential || "–" },
                    {
                      title: t.share,
                      cell: (row) => (
                        <>
                          <Meter label={t.share} value={row.share} max={1} /> {number(row.share * 100, 0)} %
                        </>
                      ),
                      isNumber: true,
                    },
                    { title: t.inFlight, cell: (row) => number(row.in_flight), isNumber: true },
                    { title: t.firstChunk, cell: (row) => (row.latency ? span(row.latency) : "?"), isNumber: true },
                    {
                      title: t.state,
                      cell: (row) =>
                        row.resting_seconds > 0 ? (
                          <span className="wrong">{filled(t.rests, { span: span(row.resting_seconds) })}</span>
                        ) : (
                          <span className="status good">{t.ready}</span>
                        ),
                    },
                  ]}
                />
              )}
            </li>
          ))}
        </ol>
      )}
      {decision && decision.limits.length > 0 && (
        <Table
          caption={t.limits}
          rows={decision.limits}
          id={(row) => row.name}
          columns={[
            { title: t.limit, cell: (row) => row.name },
            {
              title: t.used,
              cell: (row) =>
                row.used === null ? (
                  t.notYet
                ) : (
                  <>
                    <Meter label={t.used} value={row.used} max={row.amount} /> {number(row.used, 4)} /{" "}
                    {number(row.amount)} {(t.units as Record<string, string>)[row.unit]}
                  </>
                ),
              isNumber: true,
            },
            { title: t.window, cell: (row) => (t.windows as Record<string, string>)[row.window] },
          ]}
        />
      )}
      {decision && (
        <p className="soft">
          {decision.cache_seconds ? filled(t.cachedFor, { span: span(decision.cache_seconds) }) : t.notCached}
        </p>
      )}
    </Card>
  );
};
