// A dialog in which a model drafts something from an instruction. Nothing of it is used before somebody says so.
import { type ReactNode, useState } from "react";
import { filled } from "../messages";
import { useChosen } from "../settings";
import { useDo } from "./actions";
import { Field, Trouble } from "./base";
import { Dialog } from "./dialog";
import { ModelPick } from "./models";

export interface Instruction {
  instruction: string;
  model?: string;
  current?: string;
}

export const Generator = <Draft,>({
  label,
  current,
  generate,
  show,
  onUse,
}: {
  label: string;
  // What there is now, which the model may improve; empty without any.
  current: string;
  generate: (instruction: Instruction) => Promise<Draft>;
  show: (draft: Draft) => ReactNode;
  onUse: (draft: Draft) => void;
}) => {
  const [isOpen, setOpen] = useState(false);
  return (
    <>
      <div>
        <button type="button" onClick={() => setOpen(true)}>
          {label}
        </button>
      </div>
      {isOpen && (
        <GeneratorDialog
          label={label}
          current={current}
          generate={generate}
          show={show}
          onUse={(draft) => {
            onUse(draft);
            setOpen(false);
          }}
          onClose={() => setOpen(false)}
        />
      )}
    </>
  );
};

const GeneratorDialog = <Draft,>({
  label,
  current,
  generate,
  show,
  onUse,
  onClose,
}: {
  label: string;
  current: string;
  generate: (instruction: Instruction) => Promise<Draft>;
  show: (draft: Draft) => ReactNode;
  onUse: (draft: Draft) => void;
  onClose: () => void;
}) => {
  const { t } = useChosen();
  const [instruction, setInstruction] = useState("");
  const [model, setModel] = useState("default");
  const [improves, setImproves] = useState(current !== "");
  const draft = useDo(() =>
    generate({
      instruction,
      ...(model === "default" ? {} : { model }),
      ...(improves && current ? { current } : {}),
    }),
  );
  return (
    <Dialog title={label} isOpen onClose={onClose} isWide>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          // The dialog is drawn within the form of a node, through which this event would pass.
          event.stopPropagation();
          void draft.run();
        }}
      >
        <Field label={t.whatToGenerate} help={t.generatorHelp}>
          <textarea
            required
            rows={4}
            maxLength={20_000}
            value={instruction}
            onChange={(event) => setInstruction(event.target.value)}
          />
        </Field>
        <ModelPick type="llm" value={model} onChange={setModel} />
        {current && (
          <label className="check">
            <input type="checkbox" checked={improves} onChange={(event) => setImproves(event.target.checked)} />{" "}
            {t.improveCurrent}
          </label>
        )}
        <div className="row">
          <button type="submit" className={draft.data ? "" : "primary"} disabled={draft.isBusy}>
            {draft.isBusy ? t.writing : t.generate}
          </button>
          <button type="button" onClick={onClose}>
            {t.cancel}
          </button>
        </div>
      </form>
      <Trouble of={[draft]} />
      <div role="status">
        {draft.data && !draft.isBusy && (
          <>
            <h3>{filled(t.draftOf, { name: label })}</h3>
            {show(draft.data)}
          </>
        )}
      </div>
      {draft.data && !draft.isBusy && (
        <div className="row">
          <button type="button" className="primary" onClick={() => onUse(draft.data!)}>
            {t.useDraft}
          </button>
        </div>
      )}
    </Dialog>
  );
};
