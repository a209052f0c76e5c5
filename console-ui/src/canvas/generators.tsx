// Drafts of a model for nodes: prompts, programs and schemas.
import { useState } from "react";
import { api, type Shape } from "../api";
import { Json } from "../components/base";
import { Generator } from "../components/generator";
import { Table } from "../components/table";
import { filled } from "../messages";
import { useChosen } from "../settings";
import { type NodeContext, SelectorField, type Valued } from "./controls";
import { asObject, type NodeData } from "./file";
import { systemPromptOf, withCode, withSystemPrompt, withVariables } from "./generated";

export const PromptGenerator = ({ value, onChange, within }: Valued & { within: NodeContext }) => {
  const { t } = useChosen();
  // What each variable of the draft stands for.
  const [keys, setKeys] = useState<Record<string, string>>({});
  return (
    <Generator
      label={t.generatePrompt}
      current={systemPromptOf(value)}
      generate={api.generatePrompt}
      show={(draft) => (
        <>
          <Json value={draft.prompt} />
          {draft.variables.map((name) => (
            <SelectorField
              key={name}
              label={filled(t.standsFor, { name })}
              value={keys[name]?.split(".")}
              onChange={(selector) => setKeys((before) => ({ ...before, [name]: selector.join(".") }))}
              within={within}
            />
          ))}
        </>
      )}
      onUse={(draft) => onChange(withSystemPrompt(value, withVariables(draft.prompt, keys)))}
    />
  );
};

const LANGUAGES = ["python3", "javascript"] as const;
type Language = (typeof LANGUAGES)[number];

export const CodeGenerator = ({ data, onChange }: { data: NodeData; onChange: (data: NodeData) => void }) => {
  const { t } = useChosen();
  const language: Language = data.code_language === "javascript" ? "javascript" : "python3";
  return (
    <Generator
      label={t.generateCode}
      current={String(data.code ?? "")}
      generate={(instruction) => api.generateCode({ ...instruction, language })}
      show={(draft) => <CodeDraft draft={draft} />}
      onUse={(draft) => onChange(withCode(data, draft))}
    />
  );
};

const CodeDraft = ({ draft }: { draft: Shape<"GeneratedCodeView"> }) => {
  const { t } = useChosen();
  const rows = [
    ...draft.inputs.map((variable) => ({ ...variable, role: t.inputs })),
    ...draft.outputs.map((variable) => ({ ...variable, role: t.outputs })),
  ];
  return (
    <>
      <Json value={draft.code} />
      <Table
        caption={t.variables}
        rows={rows}
        id={(row) => `${row.role} ${row.name}`}
        columns={[
          { title: t.name, cell: (row) => row.name },
          { title: t.type, cell: (row) => row.type },
          { title: t.kind, cell: (row) => row.role },
        ]}
      />
    </>
  );
};

export const SchemaGenerator = ({ value, onChange }: Valued) => {
  const { t } = useChosen();
  const current = Object.keys(asObject(value)).length ? JSON.stringify(value) : "";
  return (
    <Generator
      label={t.generateSchema}
      current={current}
      generate={api.generateSchema}
      show={(draft) => <Json value={draft.schema} />}
      onUse={(draft) => onChange(draft.schema)}
    />
  );
};
