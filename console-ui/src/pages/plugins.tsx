import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { api, fetchChecked, type Shape } from "../api";
import { Refused } from "../calls";
import { useDo } from "../components/actions";
import { Card, Copied, Drop, Empty, Field, Page, Status, Trouble, useWrong } from "../components/base";
import { Dialog, Sure } from "../components/dialog";
import { useTools } from "../components/tools";
import { filled } from "../messages";
import { useChosen } from "../settings";

interface Step {
  name: string;
  status: string;
  message: string;
  // Where it was refused only because nobody signed it: install it all the same.
  trust?: (() => void) | undefined;
}

type Begin = (isUnsigned: boolean) => Promise<Shape<"InstallTask">>;

export const Plugins = () => {
  const { t } = useChosen();
  const errorText = useWrong();
  const client = useQueryClient();
  const plugins = useQuery({ queryKey: ["plugins"], queryFn: api.plugins, refetchInterval: 10_000 });
  const [steps, setSteps] = useState<Step[]>([]);
  const put = (name: string, status: string, message: string, trust?: () => void) =>
    setSteps((all) => [...all.filter((step) => step.name !== name), { name, status, message, trust }]);
  const follow = async (name: string, begin: Begin, isUnsigned = false) => {
    put(name, "running", t.reading);
    try {
      let task = await begin(isUnsigned);
      while (task.status === "running") {
        const step = task.plugins[0];
        put(name, "running", step ? step.message || step.status : "");
        await new Promise((done) => setTimeout(done, 400));
        task = await api.installTask(task.id);
      }
      put(name, task.status, task.plugins[0]?.message ?? "");
    } catch (error) {
      const isUntrusted = error instanceof Refused && error.code === "unsigned_plugin";
      put(name, "failed", errorText(error), isUntrusted ? () => void follow(name, begin, true) : undefined);
    }
    await Promise.all(
      ["plugins", "providers", "catalogue"].map((key) => client.invalidateQueries({ queryKey: [key] })),
    );
  };
  const take = async (files: File[]) => {
    for (const file of files) await follow(file.name, (isUnsigned) => api.install(file, isUnsigned));
  };
  return (
    <Page title={t.plugins} text={t.pluginsText}>
      <Trouble of={[plugins]} />
      <Card title={t.install}>
        <Drop label={t.dropPlugin} accept=".difypkg,.difybndl" onFiles={(files) => void take(files)} />
        <div role="status">
          <ul className="plain">
            {steps.map((step) => (
              <li key={step.name}>
                <strong>{step.name}</strong> <Status is={step.status} /> {step.message}
                {step.trust && <Sure label={t.installUnsigned} question={t.sureUnsigned} onSure={step.trust} />}
              </li>
            ))}
          </ul>
        </div>
        <Market onInstall={(id) => void follow(id, (isUnsigned) => api.installFromMarket(id, isUnsigned))} />
      </Card>
      {plugins.data && !plugins.data.data.length && <Empty title={t.noPlugins} />}
      {(plugins.data?.data ?? []).map((plugin) => (
        <PluginCard key={plugin.id} plugin={plugin} />
      ))}
      {plugins.data?.debug_address && (
        <Card title={t.debugging}>
          <p className="soft">{t.debuggingText}</p>
          <pre
            tabIndex={0}
          >{`INSTALL_METHOD=remote\nREMOTE_INSTALL_URL=${plugins.data.debug_address}\nREMOTE_INSTALL_KEY=${plugins.data.debug_key}`}</pre>
          <Copied
            text={`INSTALL_METHOD=remote\nREMOTE_INSTALL_URL=${plugins.data.debug_address}\nREMOTE_INSTALL_KEY=${plugins.data.debug_key}\n`}
          />
        </Card>
      )}
    </Page>
  );
};

const Market = ({ onInstall }: { onInstall: (id: string) => void }) => {
  const { t } = useChosen();
  const [words, setWords] = useState("");
  const offers = useQuery({ queryKey: ["market", words], queryFn: () => api.market(words), staleTime: 60_000 });
  return (
    <details>
      <summary>{t.market}</summary>
      <Field label={t.find}>
        <input type="search" value={words} onChange={(event) => setWords(event.target.value)} />
      </Field>
      <Trouble of={[offers]} />
      {offers.data && !offers.data.length && <p className="soft">{t.noMarket}</p>}
      <ul className="plain">
        {(offers.data ?? []).slice(0, 50).map((offer) => (
          <li key={`${offer.id} ${offer.version}`} className="row">
            <strong>{offer.label || offer.id}</strong>{" "}
            <span className="soft">
              {offer.id} {offer.version}
            </span>{" "}
            {offer.description}{" "}
            <button type="button" onClick={() => onInstall(offer.id)}>
              {t.install}
            </button>
          </li>
        ))}
      </ul>
    </details>
  );
};

// The page fetches it and shows what it got: no address of this server is ever a picture's.
const Icon = ({ id }: { id: string }) => {
  const [source, setSource] = useState("");
  useEffect(() => {
    let objectUrl = "";
    let isGone = false;
    const show = async () => {
      const picture = await (await fetchChecked(`/admin/v1/plugins/${id}/icon`)).blob();
      if (isGone) return;
      objectUrl = URL.createObjectURL(picture);
      setSource(objectUrl);
    };
    show().catch(() => setSource(""));
    return () => {
      isGone = true;
      URL.revokeObjectURL(objectUrl);
    };
  }, [id]);
  return source ? (
    <img className="plugin-icon" src={source} alt="" width={24} height={24} onError={() => setSource("")} />
  ) : null;
};

const PluginCard = ({ plugin }: { plugin: Shape<"PluginView"> }) => {
  const { t, label, bytes, span, number } = useChosen();
  const [isLog, setLog] = useState(false);
  const [isTool, setTool] = useState("");
  const remove = useDo(() => api.remove("plugins", plugin.id), ["plugins", "providers", "catalogue"], t.removed);
  const grant = useDo((granted: string[]) => api.grant(plugin.id, granted), ["plugins"], t.saved);
  const logs = useQuery({
    queryKey: ["plugin logs", plugin.id],
    queryFn: () => api.pluginLogs(plugin.id),
    enabled: isLog,
    refetchInterval: isLog ? 3000 : false,
  });
  const { time } = useChosen();
  return (
    <Card
      title={
        <>
          {plugin.has_icon && <Icon id={plugin.id} />} {label(plugin.label)}{" "}
          <span className="soft small">{plugin.version}</span>
        </>
      }
      actions={
        <>
          <button type="button" onClick={() => setLog(true)}>
            {t.logs}
          </button>
          {plugin.runtime !== "remote" && (
            <Sure
              label={t.uninstall}
              question={filled(t.sureUninstall, { name: label(plugin.label) })}
              onSure={() => remove.run()}
            />
          )}
        </>
      }
    >
      {plugin.description && <p>{label(plugin.description)}</p>}
      <p className="soft small">
        {plugin.plugin_id} ·{" "}
        {plugin.kinds.map((kind) => (t.pluginKinds as Record<string, string>)[kind] ?? kind).join(", ")} ·{" "}
        {(t.runtimes as Record<string, string>)[plugin.runtime] ?? plugin.runtime}
        {plugin.processes > 0
          ? ` · ${filled(t.takes, { memory: bytes(plugin.memory_bytes), cpu: span(plugin.cpu_seconds), count: number(plugin.processes) })}`
          : ` · ${t.asleep}`}
      </p>
      {plugin.asked.length > 0 && (
        <fieldset>
          <legend>{t.mayAsk}</legend>
          {plugin.asked.map((word) => (
            <label key={word} className="check">
              <input
                type="checkbox"
                checked={plugin.granted.includes(word)}
                onChange={(event) =>
                  void grant.run(
                    event.target.checked
                      ? [...plugin.granted, word]
                      : plugin.granted.filter((permission) => permission !== word),
                  )
                }
              />
              {(t.permissions as Record<string, string>)[word] ?? word}
            </label>
          ))}
        </fieldset>
      )}
      {plugin.tools.length > 0 && (
        <div className="row">
          <span className="soft">{t.toolsOffered}</span>
          {plugin.tools.map((tool) => (
            <button type="button" key={tool} onClick={() => setTool(tool)}>
              {tool}
            </button>
          ))}
        </div>
      )}
      {plugin.kinds.includes("triggers") && <Subscriptions plugin={plugin} />}
      <Dialog title={`${t.logs}: ${label(plugin.label)}`} isOpen={isLog} onClose={() => setLog(false)} isWide>
        {logs.data && !logs.data.length ? (
          <p className="soft">{t.noLogs}</p>
        ) : (
          <pre tabIndex={0}>{(logs.data ?? []).map((line) => `${time(line.at)}  ${line.text}`).join("\n")}</pre>
        )}
      </Dialog>
      {isTool && <TryTool tool={isTool} onClose={() => setTool("")} />}
    </Card>
  );
};

// Whom a trigger plugin listens to: what its provider calls is made here, and ended here.
const Subscriptions = ({ plugin }: { plugin: Shape<"PluginView"> }) => {
  const { t, label } = useChosen();
  const parts = useQuery({ queryKey: ["plugins", "parts"], queryFn: api.nodeParts });
  const all = useQuery({ queryKey: ["plugins", "subscriptions"], queryFn: api.subscriptions });
  const [isAdding, setAdding] = useState(false);
  const [name, setName] = useState("");
  const [values, set] = useState<Record<string, string>>({});
  const provider = parts.data?.trigger_providers.find((candidate) => candidate.plugin === plugin.plugin_id);
  const mine = (all.data ?? []).filter((subscription) => subscription.plugin === plugin.plugin_id);
  const valuesOf = (fields: Shape<"ComponentParameter">[]) =>
    Object.fromEntries(
      fields
        .filter((field) => (values[field.name] ?? field.default ?? "") !== "")
        .map((field) => {
          const value = values[field.name] ?? (field.default as string);
          return [
            field.name,
            field.type === "number" ? Number(value) : field.type === "boolean" ? value === "true" : value,
          ];
        }),
    );
  const add = useDo(
    () => api.subscribe(plugin.plugin_id, name, valuesOf(provider!.parameters), valuesOf(provider!.credentials)),
    ["plugins"],
    t.subscribed,
  );
  const remove = useDo((id: string) => api.unsubscribe(id), ["plugins"], t.removed);
  return (
    <>
      <h3>{t.subscriptions}</h3>
      <Trouble of={[parts, all]} />
      <ul className="plain">
        {mine.map((subscription) => (
          <li key={subscription.id} className="row">
            <strong>{subscription.name}</strong> <code className="small">{subscription.address}</code>
            <Copied text={subscription.address} label={t.copyAddress} />
            <Sure
              label={t.remove}
              question={filled(t.sureRemove, { name: subscription.name })}
              onSure={() => remove.run(subscription.id)}
            />
          </li>
        ))}
      </ul>
      <button type="button" disabled={!provider} onClick={() => setAdding(true)}>
        {t.subscribe}
      </button>
      <Dialog title={`${t.subscribe}: ${label(plugin.label)}`} isOpen={isAdding} onClose={() => setAdding(false)}>
        <form
          className="form"
          onSubmit={(event) => {
            event.preventDefault();
            void add.run().then((created) => {
              if (!created) return;
              setAdding(false);
              setName("");
              set({});
            });
          }}
        >
          <Field label={t.name}>
            <input required value={name} onChange={(event) => setName(event.target.value)} />
          </Field>
          {[...(provider?.parameters ?? []), ...(provider?.credentials ?? [])].map((field) => (
            <Field key={field.name} label={label(field.label)} help={field.help ? label(field.help) : undefined}>
              {field.options.length ? (
                <select
                  required={field.required}
                  value={values[field.name] ?? String(field.default ?? "")}
                  onChange={(event) => set({ ...values, [field.name]: event.target.value })}
                >
                  <option value="" />
                  {field.options.map((option) => (
                    <option key={option.value} value={option.value}>
                      {label(option.label)}
                    </option>
                  ))}
                </select>
              ) : (
                <input
                  type={field.type === "secret-input" ? "password" : field.type === "number" ? "number" : "text"}
                  autoComplete="off"
                  required={field.required}
                  value={values[field.name] ?? String(field.default ?? "")}
                  onChange={(event) => set({ ...values, [field.name]: event.target.value })}
                />
              )}
            </Field>
          ))}
          <button className="primary" type="submit" disabled={add.isBusy}>
            {t.subscribe}
          </button>
        </form>
      </Dialog>
    </>
  );
};

interface Observed {
  text: string;
  error: string | null;
  values: unknown;
  seconds: number;
}

// A tool tried by hand, with what it asks for.
const TryTool = ({ tool, onClose }: { tool: string; onClose: () => void }) => {
  const { t, span } = useChosen();
  const tools = useTools("plugin");
  const name = tool.split("/").at(-1)!;
  const known =
    tools.data?.find((offered) => offered.name === name && tool.startsWith(offered.provider.split("/").at(-1)!)) ??
    tools.data?.find((offered) => offered.name === name);
  const [values, set] = useState<Record<string, string>>({});
  const fields = Object.entries(known?.schema.properties ?? {});
  const go = useDo(() => {
    const parameters = Object.fromEntries(
      Object.entries(values)
        .filter(([, value]) => value !== "")
        .map(([field, value]) => {
          const kind = known?.schema.properties?.[field]?.type;
          return [
            field,
            kind === "number" || kind === "integer" ? Number(value) : kind === "boolean" ? value === "true" : value,
          ];
        }),
    );
    return api.post<Observed>("/admin/tools/call", "POST", {
      tool: `${known?.provider ?? ""}/${known?.name ?? name}`,
      arguments: parameters,
    });
  });
  return (
    <Dialog title={tool} isOpen onClose={onClose}>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void go.run();
        }}
      >
        <Trouble of={[tools]} />
        {known && <p>{known.description}</p>}
        {fields.map(([field, schema]) => (
          <Field key={field} label={field} help={schema.description}>
            {schema.enum ? (
              <select value={values[field] ?? ""} onChange={(event) => set({ ...values, [field]: event.target.value })}>
                <option value="" />
                {schema.enum.map((choice) => (
                  <option key={choice}>{choice}</option>
                ))}
              </select>
            ) : (
              <input
                required={known?.schema.required?.includes(field) ?? false}
                value={values[field] ?? ""}
                onChange={(event) => set({ ...values, [field]: event.target.value })}
              />
            )}
          </Field>
        ))}
        <button className="primary" type="submit" disabled={go.isBusy || !known}>
          {t.run}
        </button>
        {go.data && (
          <div role="status">
            {go.data.error ? <p className="wrong">{go.data.error}</p> : <pre tabIndex={0}>{go.data.text}</pre>}
            <p className="soft small">{span(go.data.seconds)}</p>
          </div>
        )}
      </form>
    </Dialog>
  );
};
