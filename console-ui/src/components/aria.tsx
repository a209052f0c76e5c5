// Tabs and switches are React Aria's: they know keyboards and screen readers.
import { useNavigate, useSearch } from "@tanstack/react-router";
import type { ReactNode } from "react";
import { Switch as AriaSwitch, Tab, TabList, TabPanel, Tabs } from "react-aria-components";
import { filled } from "../messages";
import { useChosen } from "../settings";
import { Sure } from "./dialog";

export const Switch = ({
  label,
  isOn,
  onChange,
  isDisabled = false,
}: {
  label: string;
  isOn: boolean;
  onChange: (is: boolean) => void;
  isDisabled?: boolean;
}) => (
  <AriaSwitch className="switch" isSelected={isOn} onChange={onChange} isDisabled={isDisabled}>
    <span className="knob" />
    {label}
  </AriaSwitch>
);

export const Tabbed = ({
  tabs,
  at,
  onChange,
  label,
}: {
  tabs: { id: string; title: string; body: () => ReactNode }[];
  at: string;
  onChange: (id: string) => void;
  label: string;
}) => (
  <Tabs
    className="tabs"
    selectedKey={tabs.some((tab) => tab.id === at) ? at : (tabs[0]?.id ?? "")}
    onSelectionChange={(key) => onChange(String(key))}
  >
    <TabList aria-label={label}>
      {tabs.map((tab) => (
        <Tab key={tab.id} id={tab.id}>
          {tab.title}
        </Tab>
      ))}
    </TabList>
    {tabs.map((tab) => (
      <TabPanel key={tab.id} id={tab.id}>
        {tab.body()}
      </TabPanel>
    ))}
  </Tabs>
);

// Tabs of a page: its address says which is open; the first where it says none.
export const PageTabs = ({
  tabs,
  label,
}: {
  tabs: { id: string; title: string; body: () => ReactNode }[];
  label: string;
}) => {
  const navigate = useNavigate();
  const { tab = "" } = useSearch({ strict: false }) as { tab?: string };
  return (
    <Tabbed
      label={label}
      at={tab}
      onChange={(next) => void navigate({ to: ".", search: { tab: next } as never, replace: true })}
      tabs={tabs}
    />
  );
};

// What is done to a row of things that one has made.
export const Changes = ({ name, onEdit, onRemove }: { name: string; onEdit: () => void; onRemove: () => unknown }) => {
  const { t } = useChosen();
  return (
    <div className="row tight">
      <button type="button" onClick={onEdit}>
        {t.edit}
      </button>
      <Sure label={t.remove} question={filled(t.sureRemove, { name })} onSure={onRemove} />
    </div>
  );
};
