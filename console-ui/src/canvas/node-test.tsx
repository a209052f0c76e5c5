// Runs one node alone, with values for the variables that it reads.
import { useState } from "react";
import { api } from "../api";
import { useDo } from "../components/actions";
import { Field, Json, Status } from "../components/base";
import { useChosen } from "../settings";
import { nameOf } from "./controls";
import type { Variable } from "./variables";

const MAX_INPUTS = 12;

// Variables whose name occurs in the app's file, as a reference or as the end of a selector.
export const usedVariables = (variables: Variable[], appText: string): Variable[] =>
  variables.filter(({ selector }) => appText.includes(selector.join(".")) || appText.includes(`- ${selector[1]}`));

interface NodeTestOptions {
  appId: string;
  text: () => string;
  id: string;
  variables: Variable[];
  titles: Map<string, string>;
}

export const NodeTest = ({ appId, text, id, variables, titles }: NodeTestOptions) => {
  const { t, span } = useChosen();
  const [values, setValues] = useState<Record<string, string>>({});
  const inputs = usedVariables(variables, text()).slice(0, MAX_INPUTS);
  const test = useDo(() => api.testNode(appId, text(), id, values));
  return (
    <details>
      <summary>{t.testNode}</summary>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void test.run();
        }}
      >
        {inputs.map(({ selector }) => {
          const name = selector.join(".");
          return (
            <Field key={name} label={nameOf(selector, titles)}>
              <input
                value={values[name] ?? ""}
                onChange={(event) => setValues({ ...values, [name]: event.target.value })}
              />
            </Field>
          );
        })}
        <button type="submit" disabled={test.isBusy}>
          {t.run}
        </button>
        {test.data && (
          <>
            <p>
              <Status is={test.data.status} /> {span(test.data.ms / 1000)}
            </p>
            {test.data.error && (
              <p className="wrong" role="alert">
                {test.data.error}
              </p>
            )}
            <Json value={test.data.outputs} />
          </>
        )}
      </form>
    </details>
  );
};
