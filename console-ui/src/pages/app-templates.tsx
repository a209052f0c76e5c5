// Apps that somebody starts from: one is chosen, named, and runs with the default model at once.
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api, type Shape } from "../api";
import { useDo } from "../components/actions";
import { Card, Field, Loading, Pick, Trouble } from "../components/base";
import { Dialog, DialogForm } from "../components/dialog";
import { ModelPick } from "../components/models";
import { filled } from "../messages";
import { useChosen } from "../settings";
import { AppIcon } from "./app-card";
import { hasCanvas } from "./app-list";

type Template = Shape<"AppTemplateView">;

export const Templates = () => {
  const { t } = useChosen();
  const templates = useQuery({ queryKey: ["app templates"], queryFn: api.templates, staleTime: Infinity });
  const [chosenId, setChosenId] = useState("");
  const chosen = templates.data?.find((template) => template.id === chosenId);
  return (
    <Card title={t.templates}>
      <p className="soft">{t.templatesText}</p>
      <Trouble of={[templates]} />
      <Loading of={[templates]} />
      <ul className="grid">
        {(templates.data ?? []).map((template) => (
          <li key={template.id} className="card template-card">
            <h3 className="row tight">
              <AppIcon app={{ ...template, icon_type: "emoji" }} />
              {template.name}
            </h3>
            <p className="soft small">{(t.modes as Record<string, string>)[template.mode] ?? template.mode}</p>
            <p className="small">{template.description}</p>
            <button
              type="button"
              aria-label={filled(t.useTemplateNamed, { name: template.name })}
              onClick={() => setChosenId(template.id)}
            >
              {t.useTemplate}
            </button>
          </li>
        ))}
      </ul>
      {chosen && <TemplateDialog key={chosen.id} template={chosen} onClose={() => setChosenId("")} />}
    </Card>
  );
};

const TemplateDialog = ({ template, onClose }: { template: Template; onClose: () => void }) => {
  const { t } = useChosen();
  const navigate = useNavigate();
  const [name, setName] = useState(template.name);
  const [model, setModel] = useState("default");
  const [dataset, setDataset] = useState("");
  const create = useDo(
    () =>
      api.appFromTemplate(template.id, {
        name,
        // The default model is not written into the file, so that the app follows a later choice of it.
        ...(model === "default" ? {} : { model }),
        ...(dataset ? { dataset } : {}),
      }),
    ["apps"],
  );
  const onCreate = async () => {
    const created = await create.run();
    if (!created) return;
    onClose();
    await navigate({ to: hasCanvas(created.mode) ? "/workflows/$id" : "/apps/$id", params: { id: created.id } });
  };
  return (
    <Dialog title={filled(t.createFrom, { name: template.name })} isOpen onClose={onClose}>
      <p>{template.description}</p>
      <DialogForm label={t.make} isBusy={create.isBusy} onSubmit={onCreate} onClose={onClose}>
        <Field label={t.name}>
          <input required maxLength={200} value={name} onChange={(event) => setName(event.target.value)} />
        </Field>
        <ModelPick type="llm" value={model} onChange={setModel} />
        {template.needs_dataset && <TemplateDataset value={dataset} onChange={setDataset} />}
      </DialogForm>
    </Dialog>
  );
};

// An app that answers from documents can be created without any, but answers nothing until it has them.
const TemplateDataset = ({ value, onChange }: { value: string; onChange: (dataset: string) => void }) => {
  const { t } = useChosen();
  const datasets = useQuery({ queryKey: ["datasets"], queryFn: api.datasets });
  return (
    <>
      <Trouble of={[datasets]} />
      <Loading of={[datasets]} />
      {datasets.data && (
        <Pick
          label={t.dataset}
          value={value}
          required
          onChange={onChange}
          options={[["", t.chooseOne], ...datasets.data.map(({ id, name }) => [id, name] as const)]}
        />
      )}
      {datasets.data && !datasets.data.length && (
        <p className="soft">
          {t.noDatasets} <Link to="/knowledge">{t.knowledge}</Link>
        </p>
      )}
    </>
  );
};
