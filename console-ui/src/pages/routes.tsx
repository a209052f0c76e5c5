import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, type Shape } from "../api";
import { useDo } from "../components/actions";
import { Changes, PageTabs } from "../components/aria";
import { Card, Empty, Field, Meter, Page, Pick, SetByOperator, Trouble } from "../components/base";
import { Dialog } from "../components/dialog";
import { ModelPick, useModels } from "../components/models";
import { Table } from "../components/table";
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
          id={(one) => one.id}
          columns={[
            { title: t.name, cell: (one) => <code>{one.name}</code> },
            { title: t.targets, cell: (one) => one.targets.map((each) => each.model).join(", ") },
            {
              title: t.strategy,
              cell: (one) => (t.strategies as Record<string, string>)[one.strategy] ?? one.strategy,
            },
            { title: t.failover, cell: (one) => one.failover.join(" → ") || "–" },
            {
              title: t.actions,
              cell: (one) =>
                isKept(one) ? (
                  <SetByOperator />
                ) : (
                  <Changes name={one.name} onEdit={() => setEditing(one)} onRemove={() => remove.run(one.id)} />
                ),
            },
          ]}
        />
      )}
      {editing && <RouteForm known={editing === "new" ? null : editing} onClose={() => setEditing(null)} />}
    </Card>
  );
};

const RouteForm = ({ known, onClose }: { known: Shape<"RouteView"> | null; onClose: () => void }) => {
  const { t } = useChosen();
  const models = useModels("llm");
  const names = (models.data ?? []).map((one) => one.id);
  const [form, set] = useState(() => ({
    name: known?.name ?? "",
    strategy: known?.strategy ?? "round_robin",
    sticky: known?.sticky ?? "",
    cache: String(known?.cache_seconds ?? 0),
    targets: known?.targets ?? [{ model: "", weight: 1, priority: 0 }],
    failover: known?.failover ?? [],
  }));
  const put = (more: Partial<typeof form>) => set((now) => ({ ...now, ...more }));
  const save = useDo(
    () => {
      const value = {
        name: form.name,
        strategy: form.strategy as "random",
        sticky: form.sticky as "",
        cache_seconds: Number(form.cache) || 0,
        targets: form.targets.filter((one) => one.model),
        failover: form.failover.filter(Boolean),
      };
      return known ? api.change("routes", known.id, value) : api.make("routes", value);
    },
    ["routes", "plan"],
    t.saved,
  );
  return (
    <Dialog title={known ? known.name : t.addRoute} isOpen onClose={onClose} isWide>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void save.run().then((made) => {
            if (made) onClose();
          });
        }}
      >
        <Field label={t.name} help={t.routeNameHelp}>
          <input required value={form.name} onChange={(event) => put({ name: event.target.value })} />
        </Field>
        <datalist id="models">
          {names.map((one) => (
            <option key={one} value={one} />
          ))}
        </datalist>
        <fieldset>
          <legend>{t.targets}</legend>
          {form.targets.map((one, at) => {
            const change = (more: Partial<typeof one>) =>
              put({ targets: form.targets.map((each, place) => (place === at ? { ...each, ...more } : each)) });
            return (
              <div className="row" key={at}>
                <Field label={filled(t.modelNumber, { number: at + 1 })}>
                  <input
                    list="models"
                    required
                    value={one.model}
                    onChange={(event) => change({ model: event.target.value })}
                  />
                </Field>
                <Field label={t.weight}>
                  <input
                    className="short"
                    type="number"
                    min={0}
                    step="any"
                    value={one.weight}
                    onChange={(event) => change({ weight: Number(event.target.value) })}
                  />
                </Field>
                <Field label={t.priority}>
                  <input
                    className="short"
                    type="number"
                    value={one.priority}
                    onChange={(event) => change({ priority: Number(event.target.value) })}
                  />
                </Field>
                {form.targets.length > 1 && (
                  <button
                    type="button"
                    aria-label={filled(t.removeModel, { name: one.model || at + 1 })}
                    onClick={() => put({ targets: form.targets.filter((_, place) => place !== at) })}
                  >
                    ×
                  </button>
                )}
              </div>
            );
          })}
          <button
            type="button"
            onClick={() => put({ targets: [...form.targets, { model: "", weight: 1, priority: 0 }] })}
          >
            {t.addTarget}
          </button>
        </fieldset>
        <fieldset>
          <legend>{t.failover}</legend>
          <p className="soft">{t.failoverHelp}</p>
          {form.failover.map((one, at) => (
            <div className="row" key={at}>
              <Field label={filled(t.thenTry, { number: at + 1 })}>
                <input
                  list="models"
                  value={one}
                  onChange={(event) =>
                    put({ failover: form.failover.map((each, place) => (place === at ? event.target.value : each)) })
                  }
                />
              </Field>
              <button
                type="button"
                aria-label={filled(t.removeModel, { name: one || at + 1 })}
                onClick={() => put({ failover: form.failover.filter((_, place) => place !== at) })}
              >
                ×
              </button>
            </div>
          ))}
          <button type="button" onClick={() => put({ failover: [...form.failover, ""] })}>
            {t.addFailover}
          </button>
        </fieldset>
        <div className="fields">
          <Pick
            label={t.strategy}
            value={form.strategy}
            onChange={(strategy) => put({ strategy })}
            options={STRATEGIES.map((one) => [one, t.strategies[one]] as const)}
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
        <button className="primary" type="submit" disabled={save.isBusy}>
          {t.save}
        </button>
      </form>
    </Dialog>
  );
};

const LimitList = () => {
  const { t, number, money } = useChosen();
  const { isKept } = useMay();
  const limits = useQuery({ queryKey: ["limits"], queryFn: () => api.all("limits") });
  const keys = useQuery({ queryKey: ["keys"], queryFn: () => api.all("keys") });
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
      <Trouble of={[limits]} />
      {limits.data && !limits.data.length && (
        <Empty title={t.noLimits}>
          <p>{t.noLimitsText}</p>
        </Empty>
      )}
      {(limits.data?.length ?? 0) > 0 && (
        <Table
          caption={t.limits}
          rows={limits.data!}
          id={(one) => one.id}
          columns={[
            { title: t.name, cell: (one) => one.name },
            {
              title: t.amount,
              cell: (one) =>
                one.unit === "cost"
                  ? money(one.amount, one.currency)
                  : `${number(one.amount)} ${(t.units as Record<string, string>)[one.unit] ?? one.unit}`,
              isNumber: true,
            },
            {
              title: t.window,
              cell: (one) => (one.unit === "concurrency" ? "–" : (t.windows as Record<string, string>)[one.window]),
            },
            { title: t.foreach, cell: (one) => (t.per as Record<string, string>)[one.per] },
            {
              title: t.onlyFor,
              cell: (one) =>
                [keys.data?.find((key) => key.id === one.key)?.name ?? one.key, one.user, one.model]
                  .filter(Boolean)
                  .join(", ") || t.everybody,
            },
            {
              title: t.actions,
              cell: (one) =>
                isKept(one) ? (
                  <SetByOperator />
                ) : (
                  <Changes name={one.name} onEdit={() => setEditing(one)} onRemove={() => remove.run(one.id)} />
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
  const put = (more: Partial<typeof form>) => set((now) => ({ ...now, ...more }));
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
          void save.run().then((made) => {
            if (made) onClose();
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
            options={UNITS.map((one) => [one, t.units[one]] as const)}
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
              options={WINDOWS.map((one) => [one, t.windows[one]] as const)}
            />
          )}
          <Pick
            label={t.foreach}
            value={form.per}
            onChange={(per) => put({ per })}
            options={PER.map((one) => [one, t.per[one]] as const)}
          />
          <Pick
            label={t.onlyKey}
            value={form.key}
            onChange={(key) => put({ key })}
            options={[["", t.everybody], ...(keys.data ?? []).map((one) => [one.id, one.name] as const)]}
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
  const it = plan.data;
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
          options={[["", "–"], ...(keys.data ?? []).map((one) => [one.id, one.name] as const)]}
        />
      </div>
      <Trouble of={[plan]} />
      {it && (
        <ol className="plan">
          {it.groups.map((group, at) => (
            <li key={at}>
              <p>
                <strong>
                  {group.why === "failover"
                    ? t.thenFailover
                    : group.why === "route"
                      ? filled(t.byRoute, { name: it.route })
                      : t.theModel}
                </strong>{" "}
                <span className="soft">{(t.strategies as Record<string, string>)[group.strategy]}</span>
              </p>
              {!group.deployments.length && <p className="wrong">{t.noDeployment}</p>}
              {group.deployments.length > 0 && (
                <Table
                  caption={`${at + 1}`}
                  rows={group.deployments}
                  id={(one) => `${one.model} ${one.credential}`}
                  columns={[
                    { title: t.model, cell: (one) => <code>{one.model}</code> },
                    { title: t.credential, cell: (one) => one.credential || "–" },
                    {
                      title: t.share,
                      cell: (one) => (
                        <>
                          <Meter label={t.share} value={one.share} most={1} /> {number(one.share * 100, 0)} %
                        </>
                      ),
                      isNumber: true,
                    },
                    { title: t.inFlight, cell: (one) => number(one.in_flight), isNumber: true },
                    { title: t.firstChunk, cell: (one) => (one.latency ? span(one.latency) : "?"), isNumber: true },
                    {
                      title: t.state,
                      cell: (one) =>
                        one.resting_seconds > 0 ? (
                          <span className="wrong">{filled(t.rests, { span: span(one.resting_seconds) })}</span>
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
      {it && it.limits.length > 0 && (
        <Table
          caption={t.limits}
          rows={it.limits}
          id={(one) => one.name}
          columns={[
            { title: t.limit, cell: (one) => one.name },
            {
              title: t.used,
              cell: (one) =>
                one.used === null ? (
                  t.notYet
                ) : (
                  <>
                    <Meter label={t.used} value={one.used} most={one.amount} /> {number(one.used, 4)} /{" "}
                    {number(one.amount)} {(t.units as Record<string, string>)[one.unit]}
                  </>
                ),
              isNumber: true,
            },
            { title: t.window, cell: (one) => (t.windows as Record<string, string>)[one.window] },
          ]}
        />
      )}
      {it && (
        <p className="soft">{it.cache_seconds ? filled(t.cachedFor, { span: span(it.cache_seconds) }) : t.notCached}</p>
      )}
    </Card>
  );
};
