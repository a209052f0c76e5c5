import type { Shape } from "../api";
import type { CommonWords } from "../languages";
import { useCommon } from "../settings";
import { Field } from "./base";

export interface Form {
  type: string;
  variable: string;
  label: string;
  required: boolean;
  options: string[];
  default?: unknown;
  max_length?: number | null;
  hint?: string;
}

// How a file that was uploaded is named to the server.
export interface Uploaded {
  transfer_method: string;
  upload_file_id: string;
  type?: string;
}

export interface RunEvent {
  event: string;
  id?: string;
  node_id?: string;
  node_type?: string;
  title?: string;
  at?: number;
  chunk?: string;
  error?: string;
  message?: string;
  inputs?: Record<string, unknown>;
  outputs?: Record<string, unknown>;
  process_data?: Record<string, unknown>;
  message_id?: string;
  label?: string;
  status?: string;
  data?: unknown;
  reasons?: Record<string, unknown>[];
  reason?: unknown;
  run?: Shape<"RunView">;
  in_iteration_id?: string;
  in_loop_id?: string;
  place?: number;
}

// What a form's fields hold, as the server takes it.
export const ready = (values: Record<string, unknown>, form: Form[]): Record<string, unknown> =>
  Object.fromEntries(
    form
      .map((field) => {
        const value = values[field.variable] ?? field.default;
        if (field.type === "checkbox") return [field.variable, value === true || value === "true"] as const;
        if (value === undefined || value === null || value === "") return [field.variable, undefined] as const;
        if (field.type === "number") return [field.variable, Number(value)] as const;
        if (field.type === "json_object" && typeof value === "string")
          return [field.variable, JSON.parse(value) as unknown] as const;
        return [field.variable, value] as const;
      })
      .filter(([, value]) => value !== undefined),
  );

// Says at the first field that is not filled in as it must be what is wrong with it. The words are the page's, whatever
// language the browser speaks.
export const isComplete = (form: HTMLFormElement | null, t: CommonWords): boolean => {
  for (const field of form?.elements ?? []) {
    if (
      !(field instanceof HTMLInputElement || field instanceof HTMLTextAreaElement || field instanceof HTMLSelectElement)
    )
      continue;
    field.setCustomValidity(complaint(field, t));
    if (field.validity.valid) continue;
    field.addEventListener("input", () => field.setCustomValidity(""), { once: true });
    field.reportValidity();
    return false;
  }
  return true;
};

const complaint = (field: HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement, t: CommonWords): string => {
  if (field.validity.valueMissing) return t.isNeeded;
  if (field.validity.badInput) return t.notANumber;
  if (field.dataset.type !== "json_object" || !field.value.trim()) return "";
  try {
    JSON.parse(field.value);
    return "";
  } catch {
    return t.notJson;
  }
};

export const Inputs = ({
  form,
  values,
  upload,
  onChange,
}: {
  form: Form[];
  values: Record<string, unknown>;
  // Undefined where it failed; whoever uploads says why.
  upload: (files: File[]) => Promise<Uploaded[] | undefined>;
  onChange: (change: (before: Record<string, unknown>) => Record<string, unknown>) => void;
}) => {
  const { t } = useCommon();
  return (
    <>
      {form.map((control) => (
        <Field
          key={control.variable}
          label={control.label + (control.required ? "" : ` (${t.optional})`)}
          help={control.hint || undefined}
        >
          {drawn(
            control,
            values[control.variable] ?? control.default ?? "",
            (value) => onChange((before) => ({ ...before, [control.variable]: value })),
            upload,
          )}
        </Field>
      ))}
    </>
  );
};

const drawn = (
  control: Form,
  value: unknown,
  put: (value: unknown) => void,
  upload: (files: File[]) => Promise<Uploaded[] | undefined>,
) => {
  const need = { required: control.required };
  const maxLength = control.max_length ? { maxLength: control.max_length } : {};
  switch (control.type) {
    case "paragraph":
    case "json_object":
      return (
        <textarea
          rows={4}
          value={typeof value === "string" ? value : JSON.stringify(value)}
          data-type={control.type}
          {...need}
          {...maxLength}
          onChange={(event) => put(event.target.value)}
        />
      );
    case "select":
      return (
        <select value={String(value)} {...need} onChange={(event) => put(event.target.value)}>
          {!(control.required && control.default) && <option value="" />}
          {control.options.map((option) => (
            <option key={option}>{option}</option>
          ))}
        </select>
      );
    case "checkbox":
      return (
        <input
          type="checkbox"
          checked={value === true || value === "true"}
          onChange={(event) => put(event.target.checked)}
        />
      );
    case "file":
    case "file-list":
      return (
        <input
          type="file"
          multiple={control.type === "file-list"}
          {...need}
          onChange={async ({ target }) => {
            const uploaded = await upload([...(target.files ?? [])]);
            if (!uploaded) target.value = "";
            put(control.type === "file-list" && uploaded?.length ? uploaded : uploaded?.[0]);
          }}
        />
      );
    default:
      return (
        <input
          type={control.type === "number" ? "number" : "text"}
          step="any"
          value={String(value)}
          {...need}
          {...(control.type === "text-input" ? maxLength : {})}
          onChange={(event) => put(event.target.value)}
        />
      );
  }
};
