// The variables that an app declares: for its environment, and in a chat for each conversation.
import { Card, Field, Pick } from "../components/base";
import { removeAt, replaceAt } from "../lists";
import { useChosen } from "../settings";
import type { JsonObject } from "./file";
import { newId } from "./templates";

interface Declaration {
  id?: string;
  name: string;
  value: unknown;
  value_type: string;
  description?: string;
}

const ENVIRONMENT_TYPES = ["string", "number", "secret"];
const CONVERSATION_TYPES = ["string", "number", "object", "array[string]", "array[number]", "array[object]"];

// What somebody typed, as a value of the type. Text that is not JSON yet stays text.
export const parseValue = (text: string, type: string): unknown => {
  if (type === "number") return Number(text) || 0;
  if (type === "string" || type === "secret") return text;
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
};

const newDeclaration = (count: number): Declaration => ({
  id: newId(),
  name: `variable_${count + 1}`,
  value: "",
  value_type: "string",
  description: "",
});

const DeclarationForm = ({
  declaration,
  types,
  onChange,
  onRemove,
}: {
  declaration: Declaration;
  types: readonly string[];
  onChange: (change: Partial<Declaration>) => void;
  onRemove: () => void;
}) => {
  const { t } = useChosen();
  const { name, value, value_type } = declaration;
  return (
    <div className="card tight">
      <Field label={t.name}>
        <input value={name} onChange={(event) => onChange({ name: event.target.value })} />
      </Field>
      <Pick label={t.type} value={value_type} onChange={(type) => onChange({ value_type: type })} options={types} />
      <Field label={t.value}>
        <input
          type={value_type === "secret" ? "password" : "text"}
          autoComplete="off"
          value={typeof value === "string" ? value : JSON.stringify(value ?? "")}
          onChange={(event) => onChange({ value: parseValue(event.target.value, value_type) })}
        />
      </Field>
      <button type="button" onClick={onRemove}>
        {t.remove}
      </button>
    </div>
  );
};

const Declarations = ({
  title,
  types,
  declarations,
  onChange,
}: {
  title: string;
  types: readonly string[];
  declarations: Declaration[];
  onChange: (declarations: Declaration[]) => void;
}) => {
  const { t } = useChosen();
  return (
    <Card title={title}>
      {declarations.map((declaration, index) => (
        <DeclarationForm
          key={declaration.id ?? index}
          declaration={declaration}
          types={types}
          onChange={(change) => onChange(replaceAt(declarations, index, { ...declaration, ...change }))}
          onRemove={() => onChange(removeAt(declarations, index))}
        />
      ))}
      <button type="button" onClick={() => onChange([...declarations, newDeclaration(declarations.length)])}>
        {t.add}
      </button>
    </Card>
  );
};

export const Variables = ({
  document,
  mode,
  onChange,
}: {
  document: JsonObject;
  mode: string;
  onChange: (document: JsonObject) => void;
}) => {
  const { t } = useChosen();
  const workflow = (document.workflow ?? {}) as JsonObject;
  const scope = (name: string) => ({
    declarations: (workflow[name] ?? []) as Declaration[],
    onChange: (declarations: Declaration[]) =>
      onChange({ ...document, workflow: { ...workflow, [name]: declarations } }),
  });
  return (
    <aside className="inspector" aria-label={t.variables}>
      <Declarations title={t.environment} types={ENVIRONMENT_TYPES} {...scope("environment_variables")} />
      {mode === "advanced-chat" && (
        <Declarations title={t.ofConversation} types={CONVERSATION_TYPES} {...scope("conversation_variables")} />
      )}
    </aside>
  );
};
