// Who is before the page, and what they may do: what they may not is not offered.
import { useQuery } from "@tanstack/react-query";
import { useCallback } from "react";
import { api } from "./api";

const ROLES = ["viewer", "developer", "editor", "admin", "owner"] as const;
export type Role = (typeof ROLES)[number];

export const useWho = () => useQuery({ queryKey: ["who"], queryFn: api.who, staleTime: 60_000 });

type IsKept = (row: { set_by?: string } | undefined) => boolean;

export const useMay = (): { may: (role: Role) => boolean; isOperator: boolean; isKept: IsKept } => {
  const who = useWho();
  const account = who.data?.mode === "accounts" ? who.data.account : null;
  const role = (account?.role ?? "owner") as Role;
  const may = useCallback((needed: Role) => ROLES.indexOf(role) >= ROLES.indexOf(needed), [role]);
  const tenant = account?.tenant ?? "default";
  const isOperator = who.data !== undefined && role === "owner" && tenant === "default";
  return {
    may,
    isOperator,
    // What the operator set for a tenant is not the tenant's to change.
    isKept: (row: { set_by?: string } | undefined) => row?.set_by === "operator" && tenant !== "default",
  };
};
