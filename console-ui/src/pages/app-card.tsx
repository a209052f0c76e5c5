// An app in a list: what it is, and what can be done with it as a whole.
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api } from "../api";
import { useDo } from "../components/actions";
import { Switch } from "../components/aria";
import { Field } from "../components/base";
import { Dialog, DialogForm } from "../components/dialog";
import { Choose } from "../components/menu";
import { filled } from "../messages";
import { useChosen } from "../settings";
import { AppDetailsDialog } from "./app-details";
import { type App, hasCanvas, iconOf } from "./app-list";

// The name stands beside it, so it is decoration.
export const AppIcon = ({ app }: { app: Parameters<typeof iconOf>[0] }) => {
  const { text, background } = iconOf(app);
  return (
    <span className="app-icon" aria-hidden="true" style={background ? { backgroundColor: background } : {}}>
      {text}
    </span>
  );
};

export const AppTagList = ({ app }: { app: App }) => {
  const { t } = useChosen();
  if (!app.tags.length) return null;
  return (
    <ul className="tags" aria-label={t.tags}>
      {app.tags.map((tag) => (
        <li key={tag.id} className="tag">
          {tag.name}
        </li>
      ))}
    </ul>
  );
};

export const AppCard = ({ app }: { app: App }) => {
  const { t } = useChosen();
  const change = useDo((is: boolean) => api.setApp(app.id, { is_enabled: is }), ["apps"]);
  return (
    <li className="card">
      <h2 className="row tight">
        <AppIcon app={app} />
        <Link to="/apps/$id" params={{ id: app.id }}>
          {app.name}
        </Link>
      </h2>
      <p className="soft small">{(t.modes as Record<string, string>)[app.mode] ?? app.mode}</p>
      {app.description && <p>{app.description}</p>}
      <AppTagList app={app} />
      <p className="small">
        {app.is_published ? t.published : t.neverPublished}
        {app.has_draft ? ` · ${t.hasDraft}` : ""}
      </p>
      <div className="row tight">
        {hasCanvas(app.mode) && (
          <Link className="button" to="/workflows/$id" params={{ id: app.id }}>
            {t.canvas}
          </Link>
        )}
        {app.page.url && (
          <a className="button" href={app.page.url} target="_blank" rel="noopener">
            {t.openPage}
          </a>
        )}
        <AppMenu app={app} />
        <Switch label={t.on} isOn={app.is_enabled} onChange={(is) => void change.run(is)} />
      </div>
    </li>
  );
};

// What is done to an app as a whole, each in a dialog.
export const AppMenu = ({ app }: { app: App }) => {
  const { t } = useChosen();
  const [dialog, setDialog] = useState("");
  const close = () => setDialog("");
  return (
    <>
      <Choose
        label={t.more}
        name={filled(t.moreFor, { name: app.name })}
        items={[
          ["details", t.appDetails],
          ["duplicate", t.duplicate],
        ]}
        onChoose={setDialog}
      />
      {dialog === "details" && <AppDetailsDialog app={app} onClose={close} />}
      {dialog === "duplicate" && <DuplicateDialog app={app} onClose={close} />}
    </>
  );
};

const DuplicateDialog = ({ app, onClose }: { app: App; onClose: () => void }) => {
  const { t } = useChosen();
  const navigate = useNavigate();
  const [name, setName] = useState(filled(t.copyOf, { name: app.name }));
  const duplicate = useDo(() => api.duplicate(app.id, name), ["apps"]);
  const onDuplicate = async () => {
    const copy = await duplicate.run();
    // A refusal, as of a name that is taken, is shown and leaves the dialog open.
    if (!copy) return;
    onClose();
    await navigate({ to: hasCanvas(copy.mode) ? "/workflows/$id" : "/apps/$id", params: { id: copy.id } });
  };
  return (
    <Dialog title={filled(t.duplicateOf, { name: app.name })} isOpen onClose={onClose}>
      <p className="soft">{t.duplicateText}</p>
      <DialogForm label={t.duplicate} isBusy={duplicate.isBusy} onSubmit={onDuplicate} onClose={onClose}>
        <Field label={t.name}>
          <input required maxLength={200} value={name} onChange={(event) => setName(event.target.value)} />
        </Field>
      </DialogForm>
    </Dialog>
  );
};
