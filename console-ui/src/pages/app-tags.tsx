// The tags by which a team sorts its apps: the filter of the list, and their administration.
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, type Shape } from "../api";
import { useDo } from "../components/actions";
import { Empty, Field, Loading, Trouble } from "../components/base";
import { Dialog, Sure } from "../components/dialog";
import { filled } from "../messages";
import { useChosen } from "../settings";
import { type AppFilter, toggled } from "./app-list";

type Tag = Shape<"AppTagView">;

export const useAppTags = () => useQuery({ queryKey: ["app tags"], queryFn: api.appTags });

export const AppFilterBar = ({
  filter,
  onChange,
  tags,
  shownCount,
  count,
}: {
  filter: AppFilter;
  onChange: (filter: AppFilter) => void;
  tags: Tag[];
  // How many of how many apps the filter leaves.
  shownCount: number;
  count: number;
}) => {
  const { t } = useChosen();
  const [isManaging, setManaging] = useState(false);
  return (
    <search className="row" aria-label={t.findApps}>
      <Field label={t.findApps}>
        <input
          type="search"
          value={filter.text}
          onChange={(event) => onChange({ ...filter, text: event.target.value })}
        />
      </Field>
      {tags.length > 0 && (
        <fieldset className="tag-filter">
          <legend>{t.tags}</legend>
          {tags.map((tag) => (
            <button
              type="button"
              className="tag"
              key={tag.id}
              aria-pressed={filter.tags.includes(tag.id)}
              onClick={() => onChange({ ...filter, tags: toggled(filter.tags, tag.id) })}
            >
              {tag.name} <span className="soft">{tag.apps}</span>
            </button>
          ))}
        </fieldset>
      )}
      <button type="button" onClick={() => setManaging(true)}>
        {t.manageTags}
      </button>
      <span className="soft small" role="status">
        {shownCount < count ? filled(t.appsShown, { shown: shownCount, all: count }) : ""}
      </span>
      {isManaging && <TagsDialog onClose={() => setManaging(false)} />}
    </search>
  );
};

// Not a form of its own: it also stands within the form of an app.
export const AddTag = ({ onAdded }: { onAdded?: (tag: Tag) => void }) => {
  const { t } = useChosen();
  const [name, setName] = useState("");
  const add = useDo(() => api.addAppTag(name.trim()), ["app tags"]);
  const onAdd = async () => {
    if (!name.trim() || add.isBusy) return;
    const tag = await add.run();
    if (!tag) return;
    setName("");
    onAdded?.(tag);
  };
  return (
    <div className="row tight">
      <Field label={t.newTag}>
        <input
          maxLength={50}
          value={name}
          onChange={(event) => setName(event.target.value)}
          onKeyDown={(event) => {
            if (event.key !== "Enter" || event.nativeEvent.isComposing) return;
            event.preventDefault();
            void onAdd();
          }}
        />
      </Field>
      <button type="button" disabled={!name.trim() || add.isBusy} onClick={() => void onAdd()}>
        {t.add}
      </button>
    </div>
  );
};

const TagsDialog = ({ onClose }: { onClose: () => void }) => {
  const { t } = useChosen();
  const tags = useAppTags();
  return (
    <Dialog title={t.manageTags} isOpen onClose={onClose}>
      <p className="soft">{t.tagsText}</p>
      <Trouble of={[tags]} />
      <Loading of={[tags]} />
      {tags.data && !tags.data.length && <Empty title={t.noTags} />}
      <ul className="plain">
        {(tags.data ?? []).map((tag) => (
          <TagRow key={tag.id} tag={tag} />
        ))}
      </ul>
      <AddTag />
    </Dialog>
  );
};

const TagRow = ({ tag }: { tag: Tag }) => {
  const { t } = useChosen();
  const [name, setName] = useState(tag.name);
  const rename = useDo(() => api.renameAppTag(tag.id, name.trim()), ["app tags", "apps"], t.saved);
  const remove = useDo(() => api.removeAppTag(tag.id), ["app tags", "apps"], t.removed);
  return (
    <li>
      <form
        className="row tight"
        onSubmit={(event) => {
          event.preventDefault();
          void rename.run();
        }}
      >
        <input
          required
          className="short"
          maxLength={50}
          aria-label={filled(t.nameOfTag, { name: tag.name })}
          value={name}
          onChange={(event) => setName(event.target.value)}
        />
        <button type="submit" disabled={name.trim() === tag.name || rename.isBusy}>
          {t.save}
        </button>
        <span className="soft small">{filled(t.countApps, { count: tag.apps })}</span>
        <Sure label={t.remove} question={filled(t.sureRemoveTag, { name: tag.name })} onSure={() => remove.run()} />
      </form>
    </li>
  );
};
