// What comes up over a page: everything by its name, and signing in.
import { useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useMemo } from "react";
import { Autocomplete, Input, Menu, MenuItem, SearchField, useFilter } from "react-aria-components";
import { api } from "./api";
import { Dialog } from "./components/dialog";
import { NAMES, NEEDS, PAGES } from "./navigation";
import { Enter } from "./pages/enter";
import { useMay } from "./permissions";
import { useChosen } from "./settings";

interface Goal {
  id: string;
  title: string;
  kind: string;
  to: string;
}

// Pages, and everything that has a name: apps, datasets, providers, models.
export const Palette = ({ onClose }: { onClose: () => void }) => {
  const { t, label } = useChosen();
  const { may } = useMay();
  const navigate = useNavigate();
  const { contains } = useFilter({ sensitivity: "base" });
  const on = { retry: false, staleTime: 30_000 };
  const apps = useQuery({ queryKey: ["apps"], queryFn: api.apps, ...on });
  const datasets = useQuery({ queryKey: ["datasets"], queryFn: api.datasets, ...on });
  const providers = useQuery({ queryKey: ["providers"], queryFn: api.providers, ...on });
  const goals = useMemo<Goal[]>(
    () => [
      ...PAGES.filter((to) => may(NEEDS[to] ?? "admin")).map((to) => ({
        id: to,
        title: t[NAMES[to]] as string,
        kind: t.page,
        to,
      })),
      ...(apps.data ?? []).map((app) => ({
        id: `app ${app.id}`,
        title: app.name,
        kind: t.app,
        to: /workflow|advanced/.test(app.mode) ? `/workflows/${app.id}` : `/apps/${app.id}`,
      })),
      ...(datasets.data ?? []).map((dataset) => ({
        id: `dataset ${dataset.id}`,
        title: dataset.name,
        kind: t.dataset,
        to: `/knowledge/${dataset.id}`,
      })),
      ...(providers.data ?? []).map((provider) => ({
        id: `provider ${provider.id}`,
        title: label(provider.label),
        kind: t.provider,
        to: `/providers/${encodeURIComponent(provider.id)}`,
      })),
    ],
    [t, apps.data, datasets.data, providers.data, label, may],
  );
  return (
    <Dialog title={t.goTo} isOpen onClose={onClose}>
      <Autocomplete filter={contains}>
        <SearchField aria-label={t.goTo} autoFocus className="field">
          <Input placeholder={t.goToHint} />
        </SearchField>
        <Menu
          className="palette"
          aria-label={t.goTo}
          items={goals}
          onAction={(key) => {
            const goal = goals.find((goal) => goal.id === key);
            onClose();
            if (goal) void navigate({ to: goal.to });
          }}
        >
          {(goal: Goal) => (
            <MenuItem id={goal.id} textValue={`${goal.title} ${goal.kind}`}>
              {goal.title} <span className="soft">{goal.kind}</span>
            </MenuItem>
          )}
        </Menu>
      </Autocomplete>
    </Dialog>
  );
};

// The first account, or a session that has ended: what is under it stays as it is.
export const SignInAbove = ({ isFirst, onDone }: { isFirst: boolean; onDone: () => void }) => {
  const { t } = useChosen();
  return (
    <Dialog title={isFirst ? t.setUpTitle : t.expired} isOpen onClose={isFirst ? onDone : () => {}} mayLeave={isFirst}>
      {!isFirst && <p>{t.expiredText}</p>}
      <Enter isFirst={isFirst} isWithin onDone={onDone} />
    </Dialog>
  );
};
