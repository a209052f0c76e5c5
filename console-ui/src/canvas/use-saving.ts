import type { RefObject } from "react";
import { api } from "../api";
import { useDo } from "../components/actions";
import { useChosen } from "../settings";

interface SavingOptions {
  id: string;
  // The digest of the version that the server has, and of the version that this draft is based on.
  digest: string;
  baseDigest: RefObject<string>;
  isDirty: boolean;
  text: () => string;
  onSaved: (digest: string, text: string) => void;
}

// Saves the draft and publishes it. There is a conflict if someone else saved another version in the meantime.
export const useSaving = ({ id, digest, baseDigest, isDirty, text, onSaved }: SavingOptions) => {
  const { t } = useChosen();
  const isConflict = digest !== baseDigest.current && isDirty;
  const save = useDo(
    async () => {
      const draft = text();
      const saved = await api.saveApp(id, draft, baseDigest.current);
      baseDigest.current = saved.digest;
      onSaved(saved.digest, draft);
      return saved;
    },
    ["apps", "app file"],
    t.draftSaved,
  );
  const publish = useDo(
    async () => {
      if (isDirty) await save.run();
      return api.publish(id);
    },
    ["apps"],
    t.publishedNow,
  );
  const overwrite = () => {
    baseDigest.current = digest;
    void save.run();
  };
  return { isConflict, save, publish, overwrite };
};
export type Saving = ReturnType<typeof useSaving>;
