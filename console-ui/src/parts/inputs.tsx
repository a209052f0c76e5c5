import { api, type Shape } from "../api";
import { useChosen } from "../settings";
import { Field, useDo } from "./base";

export type Form = Shape<"InputForm">;

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
  run?: Shape<"RunShown">;
  in_iteration_id?: string;
  in_loop_id?: string;
  place?: number;
}

// What a form's fields hold, as the server takes it.
export const ready = (values: Record<string, unknown>, form: Form[]): Record<string, unknown> =>
  Object.fromEntries(
    form
      .map((one) => {
        const value = values[one.variable] ?? one.default;
        if (value === undefined || value === null || value === "") return [one.variable, undefined] as const;
        if (one.type === "number") return [one.variable, Number(value)] as const;
        if (one.type === "checkbox") return [one.variable, value === true || value === "true"] as const;
        if (one.type === "json_object" && typeof value === "string")
          return [one.variable, JSON.parse(value) as unknown] as const;
        return [one.variable, value] as const;
      })
      .filter(([, value]) => value !== undefined),
  );

export const Inputs = ({
  app,
  form,
  values,
  onChange,
}: {
  app: string;
  form: Form[];
  values: Record<string, unknown>;
  onChange: (values: Record<string, unknown>) => void;
}) => {
  const { t } = useChosen();
  const put = (name: string, value: unknown) => onChange({ ...values, [name]: value });
  const upload = useDo(async (name: string, files: FileList | null, isMany: boolean) => {
    const given = await Promise.all(
      [...(files ?? [])].map(async (file) => ({
        transfer_method: "local_file",
        upload_file_id: (await api.appFileFor(app, file)).id,
      })),
    );
    put(name, isMany ? given : given[0]);
  });
  return (
    <>
      {form.map((one) => {
        const value = values[one.variable] ?? one.default ?? "";
        const need = { required: one.required };
        return (
          <Field key={one.variable} label={one.label + (one.required ? "" : ` (${t.optional})`)}>
            {one.type === "paragraph" || one.type === "json_object" ? (
              <textarea
                rows={4}
                value={typeof value === "string" ? value : JSON.stringify(value)}
                {...need}
                onChange={(event) => put(one.variable, event.target.value)}
              />
            ) : one.type === "select" ? (
              <select value={String(value)} {...need} onChange={(event) => put(one.variable, event.target.value)}>
                <option value="" />
                {one.options.map((each) => (
                  <option key={each}>{each}</option>
                ))}
              </select>
            ) : one.type === "checkbox" ? (
              <input
                type="checkbox"
                checked={value === true || value === "true"}
                onChange={(event) => put(one.variable, event.target.checked)}
              />
            ) : one.type === "file" || one.type === "file-list" ? (
              <input
                type="file"
                multiple={one.type === "file-list"}
                onChange={(event) => void upload.run(one.variable, event.target.files, one.type === "file-list")}
              />
            ) : (
              <input
                type={one.type === "number" ? "number" : "text"}
                step="any"
                value={String(value)}
                {...need}
                {...(one.max_length ? { maxLength: one.max_length } : {})}
                onChange={(event) => put(one.variable, event.target.value)}
              />
            )}
          </Field>
        );
      })}
    </>
  );
};
