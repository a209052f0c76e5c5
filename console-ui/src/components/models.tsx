import { useQuery } from "@tanstack/react-query";
import { api, type Shape } from "../api";
import { useChosen } from "../settings";
import { Field, Pick } from "./base";

const ALIAS: Record<string, string> = { llm: "default" };

export const useModels = (type: string) =>
  useQuery({
    queryKey: ["catalogue", type, "ready"],
    queryFn: () => api.catalogue({ type, ready: true }),
    staleTime: 30_000,
  });

// A model that can be called now, a route, or what is the default.
export const ModelPick = ({
  type,
  value,
  onChange,
  label,
  id,
}: {
  type: string;
  value: string;
  onChange: (value: string) => void;
  label?: string;
  id?: string;
}) => {
  const { t } = useChosen();
  const models = useModels(type);
  const routes = useQuery({ queryKey: ["routes"], queryFn: () => api.all("routes"), staleTime: 30_000, retry: false });
  const alias = ALIAS[type] ?? `default-${type}`;
  const names = [
    ...(models.data ?? []).map((model) => model.id),
    ...(type === "llm" ? (routes.data ?? []).map((route) => route.name) : []),
  ];
  const known = value && value !== alias && !names.includes(value) ? [value] : [];
  return (
    <Pick
      label={label ?? t.model}
      value={value || alias}
      onChange={onChange}
      {...(id ? { id } : {})}
      options={[[alias, t.defaultModel], ...known, ...new Set(names)]}
    />
  );
};

// The knobs that the models themselves declare.
export const ModelRules = ({
  models,
  values,
  onChange,
}: {
  models: string[];
  values: Record<string, unknown>;
  onChange: (values: Record<string, unknown>) => void;
}) => {
  const { t, label } = useChosen();
  const known = useModels("llm");
  const plan = useQuery({ queryKey: ["plan", "default"], queryFn: () => api.plan({ model: "default" }), retry: false });
  const names = models.map((model) => (model === "default" ? plan.data?.model : model));
  const rules = new Map<string, Shape<"ParameterRule">>();
  for (const model of known.data ?? [])
    if (names.includes(model.id)) for (const rule of model.rules) rules.set(rule.name, rule);
  const put = (name: string, value: unknown) => {
    const next = { ...values };
    if (value === "" || value === undefined) delete next[name];
    else next[name] = value;
    onChange(next);
  };
  if (!rules.size) return <p className="soft">{t.noRules}</p>;
  return (
    <div className="fields">
      {[...rules.values()]
        .filter((rule) => rule.name !== "response_format")
        .map((rule) => {
          const value = values[rule.name];
          const help = rule.min !== null && rule.max !== null ? `${rule.min} – ${rule.max}` : undefined;
          return (
            <Field key={rule.name} label={label(rule.label) || rule.name} help={help}>
              {rule.options.length ? (
                <select value={String(value ?? "")} onChange={(event) => put(rule.name, event.target.value)}>
                  <option value="">{t.asModelLikes}</option>
                  {rule.options.map((option) => (
                    <option key={option}>{option}</option>
                  ))}
                </select>
              ) : rule.type === "boolean" ? (
                <select
                  value={value === undefined ? "" : String(value)}
                  onChange={(event) => put(rule.name, event.target.value === "" ? "" : event.target.value === "true")}
                >
                  <option value="">{t.asModelLikes}</option>
                  <option value="true">{t.yes}</option>
                  <option value="false">{t.no}</option>
                </select>
              ) : rule.type === "int" || rule.type === "float" ? (
                <input
                  type="number"
                  value={value === undefined ? "" : Number(value)}
                  placeholder={String(rule.default ?? "")}
                  step={rule.type === "int" ? 1 : "any"}
                  {...(rule.min === null ? {} : { min: rule.min })}
                  {...(rule.max === null ? {} : { max: rule.max })}
                  onChange={(event) => put(rule.name, event.target.value === "" ? "" : Number(event.target.value))}
                />
              ) : (
                <input value={String(value ?? "")} onChange={(event) => put(rule.name, event.target.value)} />
              )}
            </Field>
          );
        })}
    </div>
  );
};
