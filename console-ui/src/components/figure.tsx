import type { ReactNode } from "react";

// One number of a list of figures, with its name.
export const Figure = ({ label, value }: { label: string; value: ReactNode }) => (
  <div>
    <dt>{label}</dt>
    <dd>{value}</dd>
  </div>
);
