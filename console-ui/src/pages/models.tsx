import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, events } from "../api";
import { useDo } from "../components/actions";
import { PageTabs } from "../components/aria";
import { Card, Empty, Field, Meter, Page, Pick, SetByOperator, Trouble, useToast, useWrong } from "../components/base";
import { Dialog, Sure } from "../components/dialog";
import { Table } from "../components/table";
import { filled } from "../messages";
import { useMay } from "../permissions";
import { useChosen } from "../settings";
import { ModelList } from "./providers";

const TYPES = ["llm", "text-embedding", "rerank", "speech2text", "tts", "moderation"] as const;

export const Models = () => {
  const { t } = useChosen();
  return (
    <Page title={t.models} text={t.modelsText}>
      <PageTabs
        label={t.models}
        tabs={[
          { id: "all", title: t.catalogue, body: () => <All /> },
          { id: "local", title: t.localModels, body: () => <Local /> },
          { id: "defaults", title: t.defaults, body: () => <Defaults /> },
          { id: "custom", title: t.customModels, body: () => <Custom /> },
        ]}
      />
    </Page>
  );
};

const All = () => {
  const { t } = useChosen();
  const [wanted, setWanted] = useState("");
  const [type, setType] = useState("");
  const [isReady, setReady] = useState(true);
  const models = useQuery({
    queryKey: ["catalogue", type, isReady],
    queryFn: () => api.catalogue({ ...(type ? { type } : {}), ready: isReady }),
  });
  const shown = (models.data ?? []).filter((model) => model.id.toLowerCase().includes(wanted.toLowerCase()));
  return (
    <>
      <div className="row">
        <Field label={t.find}>
          <input type="search" value={wanted} onChange={(event) => setWanted(event.target.value)} />
        </Field>
        <Pick
          label={t.type}
          value={type}
          onChange={setType}
          options={[["", t.all], ...TYPES.map((type) => [type, t.types[type]] as const)]}
        />
        <label className="check">
          <input type="checkbox" checked={isReady} onChange={(event) => setReady(event.target.checked)} /> {t.readyOnly}
        </label>
      </div>
      <Trouble of={[models]} />
      {models.data && <ModelList models={shown.slice(0, 300)} />}
      {shown.length > 300 && <p className="soft">{filled(t.firstOf, { shown: 300, all: shown.length })}</p>}
    </>
  );
};

interface Pulled {
  files: { file: string; done: number; total: number }[];
  is_done: boolean;
  notes?: string[];
}

const Local = () => {
  const { t, bytes } = useChosen();
  const errorText = useWrong();
  const toast = useToast();
  const weights = useQuery({ queryKey: ["weights"], queryFn: api.weights });
  const [at, setAt] = useState<Record<string, Pulled["files"]>>({});
  const remove = useDo((id: string) => api.removeWeights(id), ["weights", "catalogue"], t.removed);
  const pull = async (id: string) => {
    setAt((all) => ({ ...all, [id]: [] }));
    try {
      for await (const event of events<Pulled>(`/admin/v1/weights/${id}/pull`, { method: "POST" })) {
        if (!event.is_done) setAt((all) => ({ ...all, [id]: event.files }));
        for (const note of event.notes ?? []) toast(note);
      }
      toast(filled(t.pulled, { name: id }));
    } catch (error) {
      toast(errorText(error), true);
    } finally {
      setAt(({ [id]: _, ...rest }) => rest);
      await weights.refetch();
    }
  };
  return (
    <>
      <p className="soft">{t.localText}</p>
      <Trouble of={[weights]} />
      {weights.data && !weights.data.length && <Empty title={t.localOff} />}
      <Table
        caption={t.localModels}
        rows={weights.data ?? []}
        id={(row) => row.id}
        columns={[
          { title: t.model, cell: (row) => <code>{row.model}</code> },
          { title: t.type, cell: (row) => row.types.map((kind) => t.types[kind]).join(", ") },
          { title: t.size, cell: (row) => bytes(row.bytes), isNumber: true },
          { title: t.licence, cell: (row) => row.licence },
          {
            title: t.actions,
            cell: (row) => {
              const files = at[row.id];
              if (files) {
                const done = files.reduce((sum, file) => sum + file.done, 0);
                const total = files.reduce((sum, file) => sum + file.total, 0);
                return (
                  <>
                    <Meter label={filled(t.pulling, { name: row.id })} value={done} max={total} /> {bytes(done)}
                  </>
                );
              }
              return row.is_present ? (
                <Sure
                  label={t.remove}
                  question={filled(t.sureRemoveWeights, { name: row.id, size: bytes(row.bytes) })}
                  onSure={() => remove.run(row.id)}
                />
              ) : (
                <button type="button" onClick={() => void pull(row.id)}>
                  {t.pull}
                </button>
              );
            },
          },
        ]}
      />
    </>
  );
};

const Defaults = () => {
  const { t } = useChosen();
  const { isKept } = useMay();
  const models = useQuery({ queryKey: ["catalogue", "", true], queryFn: () => api.catalogue({ ready: true }) });
  const defaults = useQuery({ queryKey: ["defaults"], queryFn: () => api.all("defaults") });
  const save = useDo(
    async (type: string, model: string) => {
      const known = defaults.data?.find((entry) => entry.name === type);
      if (!model) return known && api.remove("defaults", known.id);
      return known ? api.change("defaults", known.id, { model }) : api.make("defaults", { name: type, model });
    },
    ["defaults", "catalogue", "plan"],
    t.saved,
  );
  return (
    <Card title={t.defaults}>
      <p className="soft">{t.defaultsText}</p>
      <Trouble of={[defaults]} />
      <div className="fields">
        {TYPES.map((type) => {
          const known = defaults.data?.find((entry) => entry.name === type);
          return isKept(known) ? (
            <Field key={type} label={t.types[type]}>
              <span>
                <code>{known?.model}</code> <SetByOperator />
              </span>
            </Field>
          ) : (
            <Pick
              key={type}
              label={t.types[type]}
              value={known?.model ?? ""}
              onChange={(model) => void save.run(type, model)}
              options={[
                ["", t.firstReady],
                ...(models.data ?? [])
                  .filter((model) => model.type === type)
                  .map((model) => [model.id, model.id] as const),
              ]}
            />
          );
        })}
      </div>
    </Card>
  );
};

const Custom = () => {
  const { t } = useChosen();
  const { isKept } = useMay();
  const models = useQuery({ queryKey: ["models"], queryFn: () => api.all("models") });
  const providers = useQuery({ queryKey: ["providers"], queryFn: api.providers });
  const [isAdding, setAdding] = useState(false);
  const remove = useDo((id: string) => api.remove("models", id), ["models", "catalogue"], t.removed);
  return (
    <Card
      title={t.customModels}
      actions={
        <button type="button" className="primary" onClick={() => setAdding(true)}>
          {t.addModel}
        </button>
      }
    >
      <p className="soft">{t.customText}</p>
      <Trouble of={[models]} />
      {models.data && !models.data.length && <Empty title={t.noCustom} />}
      {(models.data?.length ?? 0) > 0 && (
        <Table
          caption={t.customModels}
          rows={models.data!}
          id={(row) => row.id}
          columns={[
            {
              title: t.model,
              cell: (row) => (
                <code>
                  {row.provider}/{String(row.definition.model ?? "")}
                </code>
              ),
            },
            { title: t.type, cell: (row) => String(row.definition.model_type ?? "") },
            {
              title: t.actions,
              cell: (row) =>
                isKept(row) ? (
                  <SetByOperator />
                ) : (
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
      {isAdding && (
        <AddModel providers={(providers.data ?? []).map((provider) => provider.id)} onClose={() => setAdding(false)} />
      )}
    </Card>
  );
};

const AddModel = ({ providers, onClose }: { providers: string[]; onClose: () => void }) => {
  const { t } = useChosen();
  const [form, set] = useState({
    provider: providers[0] ?? "",
    model: "",
    type: "llm",
    context: "8192",
    input: "",
    output: "",
    currency: "USD",
  });
  const put = (more: Partial<typeof form>) => set((before) => ({ ...before, ...more }));
  const save = useDo(
    () =>
      api.make("models", {
        name: form.model,
        provider: form.provider,
        definition: {
          model: form.model,
          model_type: form.type,
          label: { en_US: form.model },
          model_properties: {
            ...(form.type === "llm" ? { mode: "chat" } : {}),
            context_size: Number(form.context) || 8192,
          },
          ...(form.input
            ? { pricing: { input: form.input, output: form.output || "0", unit: "0.000001", currency: form.currency } }
            : {}),
        } as never,
      }),
    ["models", "catalogue"],
    t.saved,
  );
  return (
    <Dialog title={t.addModel} isOpen onClose={onClose}>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void save.run().then((created) => {
            if (created) onClose();
          });
        }}
      >
        <Pick label={t.provider} value={form.provider} onChange={(provider) => put({ provider })} options={providers} />
        <Field label={t.model}>
          <input required value={form.model} onChange={(event) => put({ model: event.target.value })} />
        </Field>
        <Pick
          label={t.type}
          value={form.type}
          onChange={(type) => put({ type })}
          options={TYPES.map((type) => [type, t.types[type]] as const)}
        />
        <Field label={t.context}>
          <input
            type="number"
            min={1}
            value={form.context}
            onChange={(event) => put({ context: event.target.value })}
          />
        </Field>
        <div className="fields">
          <Field label={t.inputPrice} help={t.perMillion}>
            <input inputMode="decimal" value={form.input} onChange={(event) => put({ input: event.target.value })} />
          </Field>
          <Field label={t.outputPrice} help={t.perMillion}>
            <input inputMode="decimal" value={form.output} onChange={(event) => put({ output: event.target.value })} />
          </Field>
          <Field label={t.currency}>
            <input
              maxLength={3}
              value={form.currency}
              onChange={(event) => put({ currency: event.target.value.toUpperCase() })}
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
