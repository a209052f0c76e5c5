import { useQuery } from "@tanstack/react-query";
import { api } from "../api";
import { useChosen } from "../settings";
import { Pick } from "./base";

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
    ...(models.data ?? []).map((one) => one.id),
    ...(type === "llm" ? (routes.data ?? []).map((one) => one.name) : []),
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
