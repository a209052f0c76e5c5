// How an app is shown: its name, icon and tags. None of it is a new version.
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api } from "../api";
import { useDo } from "../components/actions";
import { Field, Loading, Trouble } from "../components/base";
import { Dialog, DialogForm } from "../components/dialog";
import { filled } from "../messages";
import { useChosen } from "../settings";
import { type App, type AppDetails, changeOf, detailsOf, toggled } from "./app-list";
import { AddTag } from "./app-tags";

export const AppDetailsDialog = ({ app, onClose }: { app: App; onClose: () => void }) => {
  const { t } = useChosen();
  const [details, setDetails] = useState(() => detailsOf(app));
  const put = (change: Partial<AppDetails>) => setDetails((before) => ({ ...before, ...change }));
  const save = useDo(() => api.setApp(app.id, changeOf(app, details)), ["apps", "app tags"], t.saved);
  return (
    <Dialog title={filled(t.detailsOf, { name: app.name })} isOpen onClose={onClose}>
      <DialogForm
        label={t.save}
        isBusy={save.isBusy}
        onSubmit={() => save.run().then((saved) => saved && onClose())}
        onClose={onClose}
      >
        <Field label={t.name}>
          <input
            required
            maxLength={200}
            value={details.name}
            onChange={(event) => put({ name: event.target.value })}
          />
        </Field>
        <Field label={t.fields.description}>
          <textarea
            rows={3}
            maxLength={4000}
            value={details.description}
            onChange={(event) => put({ description: event.target.value })}
          />
        </Field>
        <div className="row">
          <Field label={t.icon} help={t.iconHelp}>
            <input
              className="short"
              maxLength={199}
              value={details.icon}
              onChange={(event) => put({ icon: event.target.value })}
            />
          </Field>
          <Field label={t.iconBackground}>
            <input
              className="short"
              type="color"
              value={details.icon_background}
              onChange={(event) => put({ icon_background: event.target.value })}
            />
          </Field>
        </div>
        <TagChoice selected={details.tags} onChange={(tags) => put({ tags })} />
      </DialogForm>
    </Dialog>
  );
};

const TagChoice = ({ selected, onChange }: { selected: string[]; onChange: (tags: string[]) => void }) => {
  const { t } = useChosen();
  const tags = useQuery({ queryKey: ["app tags"], queryFn: api.appTags });
  return (
    <fieldset>
      <legend>{t.tags}</legend>
      <Trouble of={[tags]} />
      <Loading of={[tags]} />
      {tags.data && !tags.data.length && <p className="soft small">{t.noTags}</p>}
      <div className="fields">
        {(tags.data ?? []).map((tag) => (
          <label className="check" key={tag.id}>
            <input
              type="checkbox"
              checked={selected.includes(tag.id)}
              onChange={() => onChange(toggled(selected, tag.id))}
            />{" "}
            {tag.name}
          </label>
        ))}
      </div>
      <AddTag onAdded={(tag) => onChange([...selected, tag.id])} />
    </fieldset>
  );
};
