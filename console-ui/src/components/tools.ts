import { useQuery } from "@tanstack/react-query";
import { api } from "../api";

export interface OfferedTool {
  name: string;
  provider: string;
  kind: string;
  description: string;
  schema: {
    properties?: Record<string, { type?: string; description?: string; enum?: string[] }>;
    required?: string[];
  };
}

// Every tool that is here, or those of one kind.
export const useTools = (kind = "", enabled = true) =>
  useQuery({
    queryKey: ["tools", kind],
    queryFn: () =>
      api.post<{ data: OfferedTool[] }>(`/admin/tools${kind ? `?kind=${kind}` : ""}`).then((body) => body.data),
    enabled,
    staleTime: 30_000,
  });
