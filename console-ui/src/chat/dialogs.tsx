import { useState } from "react";
import { Field } from "../components/base";
import { Dialog } from "../components/dialog";
import { filled } from "../languages";
import { useChat } from "./messages";
import type { Change } from "./page";
import type { Talk } from "./talk";

// A conversation gets another name, or is deleted once somebody is sure.
const ChangeDialog = ({ change: { what, of }, talk, onClose }: { change: Change; talk: Talk; onClose: () => void }) => {
  const { t } = useChat();
  const [name, setName] = useState(of.name);
  const isRename = what === "rename";
  const act = () => {
    if (isRename && !name.trim()) return;
    void (isRename ? talk.rename(of.id, name) : talk.erase(of.id));
    onClose();
  };
  return (
    <Dialog title={isRename ? t.rename : t.erase} isOpen onClose={onClose}>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          act();
        }}
      >
        {isRename ? (
          <Field label={t.name}>
            <input required value={name} onChange={(event) => setName(event.target.value)} />
          </Field>
        ) : (
          <p>{filled(t.sure, { name: of.name })}</p>
        )}
        <div className="row tight">
          <button type="submit" className={isRename ? "primary" : "danger"}>
            {isRename ? t.rename : t.erase}
          </button>
          <button type="button" onClick={onClose}>
            {t.cancel}
          </button>
        </div>
      </form>
    </Dialog>
  );
};
export default ChangeDialog;
