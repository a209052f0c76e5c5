// What happens if a node fails: it is tried again, the run takes another branch, or it continues with default values.
import { Field, Pick } from "../components/base";
import { useChosen } from "../settings";
import type { NodeData } from "./file";
import { outputs } from "./variables";

interface DefaultValue {
  key: string;
  type?: string;
  value?: unknown;
}
interface RetryConfig {
  retry_enabled?: boolean;
  max_retries?: number;
  retry_interval?: number;
}
interface FailureFormOptions {
  id: string;
  data: NodeData;
  onChange: (data: NodeData) => void;
}

const textOf = (value: unknown): string => {
  if (value === undefined || value === null) return "";
  return typeof value === "string" ? value : JSON.stringify(value);
};

const DefaultValues = ({ id, data, onChange }: FailureFormOptions) => {
  const { t } = useChosen();
  const defaults = (Array.isArray(data.default_value) ? data.default_value : []) as DefaultValue[];
  const defaultsByKey = new Map(defaults.map((entry) => [entry.key, entry]));
  const put = (name: string, kind: string, value: string) =>
    onChange({
      ...data,
      default_value: [...defaults.filter((entry) => entry.key !== name), { key: name, type: kind, value }],
    });
  return outputs(id, data).map(({ selector, kind }) => {
    const name = selector.slice(1).join(".");
    return (
      <Field key={name} label={name} help={kind === "string" ? undefined : t.asJson}>
        <input
          value={textOf(defaultsByKey.get(name)?.value)}
          onChange={(event) => put(name, kind, event.target.value)}
        />
      </Field>
    );
  });
};

const Retries = ({ data, onChange }: Omit<FailureFormOptions, "id">) => {
  const { t } = useChosen();
  const retry = (data.retry_config ?? {}) as RetryConfig;
  const put = (change: RetryConfig) =>
    onChange({
      ...data,
      retry_config: { retry_enabled: false, max_retries: 3, retry_interval: 1000, ...retry, ...change },
    });
  return (
    <>
      <label className="check">
        <input
          type="checkbox"
          checked={retry.retry_enabled === true}
          onChange={(event) => put({ retry_enabled: event.target.checked })}
        />{" "}
        {t.retries}
      </label>
      {retry.retry_enabled && (
        <div className="row tight">
          <Field label={t.triesAtMost}>
            <input
              type="number"
              min={1}
              max={10}
              value={retry.max_retries ?? 3}
              onChange={(event) => put({ max_retries: Number(event.target.value) })}
            />
          </Field>
          <Field label={t.msBetween}>
            <input
              type="number"
              min={0}
              max={60000}
              step={100}
              value={retry.retry_interval ?? 1000}
              onChange={(event) => put({ retry_interval: Number(event.target.value) })}
            />
          </Field>
        </div>
      )}
    </>
  );
};

export const FailureForm = ({ id, data, onChange }: FailureFormOptions) => {
  const { t } = useChosen();
  return (
    <details>
      <summary>{t.whenItFails}</summary>
      <Pick
        label={t.whenItFails}
        value={String(data.error_strategy ?? "")}
        onChange={(error_strategy) => onChange({ ...data, error_strategy })}
        options={[
          ["", t.failRun],
          ["default-value", t.goOnWithDefault],
          ["fail-branch", t.goAnotherWay],
        ]}
      />
      {data.error_strategy === "default-value" && <DefaultValues id={id} data={data} onChange={onChange} />}
      <Retries data={data} onChange={onChange} />
    </details>
  );
};
