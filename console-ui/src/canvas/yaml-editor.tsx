import { lazy, Suspense, useState } from "react";
import { useChosen } from "../settings";
import { readYaml, writeYaml } from "../yaml";
import type { JsonObject } from "./file";

const Code = lazy(() => import("../components/code").then((module) => ({ default: module.Code })));

// An object of the file as YAML. What is incomplete, or no YAML yet, changes nothing.
export const YamlEditor = <T extends JsonObject>({
  label,
  value,
  isComplete,
  onChange,
}: {
  label: string;
  value: T;
  isComplete: (value: JsonObject) => boolean;
  onChange: (value: T) => void;
}) => {
  const { t } = useChosen();
  const [error, setError] = useState("");
  // What was typed stays as it is while it means what the file has: quotes and order are somebody's own.
  const [typed, setTyped] = useState({ text: "", written: "" });
  const written = writeYaml(value);
  const onEdit = (text: string) => {
    try {
      const edited = readYaml(text);
      if (!edited || typeof edited !== "object" || !isComplete(edited as JsonObject)) return setError(t.notComplete);
      setError("");
      setTyped({ text, written: writeYaml(edited) });
      if (writeYaml(edited) !== written) onChange(edited as T);
    } catch (problem) {
      setError((problem as Error).message);
    }
  };
  return (
    <details>
      <summary>{label}</summary>
      <Suspense fallback={null}>
        <Code
          label={label}
          language="yaml"
          value={typed.written === written ? typed.text : written}
          onChange={onEdit}
        />
      </Suspense>
      {error && <p className="wrong">{error}</p>}
    </details>
  );
};
