// What begins a workflow by itself: when a schedule's time comes, and where a webhook is called.
import { useQuery } from "@tanstack/react-query";
import { api } from "../api";
import { Copied, Field, Pick } from "../components/base";
import { useChosen } from "../settings";
import type { NodeData } from "./file";

const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"] as const;
const ZONES = ["UTC", ...Intl.supportedValuesOf("timeZone").filter((zone) => zone !== "UTC")];

const FREQUENCIES = ["hourly", "daily", "weekly", "monthly"] as const;

interface Visual {
  on_minute?: number;
  time?: string;
  weekdays?: string[];
  monthly_days?: (number | string)[];
}

// Files say 9:30 PM, the field says 21:30.
export const asField = (time: string): string => {
  const match = /^(\d{1,2}):(\d{2})\s*([AP]M)?$/i.exec(time.trim());
  if (!match) return "";
  const hour = Number(match[1]);
  const late = match[3]?.toUpperCase();
  const shown = late === "PM" ? (hour % 12) + 12 : late === "AM" ? hour % 12 : hour;
  return `${String(shown).padStart(2, "0")}:${match[2]}`;
};
export const asFileTime = (time: string): string => {
  const [hour = 0, minute = 0] = time.split(":").map(Number);
  return `${hour % 12 || 12}:${String(minute).padStart(2, "0")} ${hour < 12 ? "AM" : "PM"}`;
};

const Weekdays = ({ value, onChange }: { value: string[]; onChange: (value: string[]) => void }) => {
  const { t, weekday } = useChosen();
  return (
    <fieldset>
      <legend>{t.fields.weekdays}</legend>
      <div className="row tight">
        {DAYS.map((day, at) => (
          <label className="check" key={day}>
            <input
              type="checkbox"
              checked={value.includes(day)}
              onChange={(event) =>
                onChange(
                  DAYS.filter((weekdayName) =>
                    weekdayName === day ? event.target.checked : value.includes(weekdayName),
                  ),
                )
              }
            />{" "}
            {weekday(at)}
          </label>
        ))}
      </div>
    </fieldset>
  );
};

const MonthDays = ({
  value,
  onChange,
}: {
  value: (number | string)[];
  onChange: (value: (number | string)[]) => void;
}) => {
  const { t, number } = useChosen();
  const put = (changedDay: number | string, is: boolean) =>
    onChange([
      ...Array.from({ length: 31 }, (_, at) => at + 1).filter((day) => (day === changedDay ? is : value.includes(day))),
      ...((changedDay === "last" ? is : value.includes("last")) ? ["last"] : []),
    ]);
  return (
    <fieldset>
      <legend>{t.fields.monthDays}</legend>
      <div className="days">
        {Array.from({ length: 31 }, (_, at) => at + 1).map((day) => (
          <label className="check" key={day}>
            <input type="checkbox" checked={value.includes(day)} onChange={(event) => put(day, event.target.checked)} />{" "}
            {number(day)}
          </label>
        ))}
      </div>
      <label className="check">
        <input
          type="checkbox"
          checked={value.includes("last")}
          onChange={(event) => put("last", event.target.checked)}
        />{" "}
        {t.lastDay}
      </label>
    </fieldset>
  );
};

interface ScheduleFieldOptions {
  data: NodeData;
  times: number[];
  onChange: (data: NodeData) => void;
}

export const ScheduleField = ({ data, times, onChange }: ScheduleFieldOptions) => {
  const { t } = useChosen();
  const isCron = data.mode === "cron";
  const zone = String(data.timezone || "UTC");
  return (
    <>
      <Pick
        label={t.fields.mode}
        value={isCron ? "cron" : "visual"}
        onChange={(mode) => onChange({ ...data, mode })}
        options={[
          ["visual", t.byForm],
          ["cron", t.byCron],
        ]}
      />
      {isCron ? (
        <Field label={t.fields.cron} help={t.cronHelp}>
          <input
            className="mono"
            value={String(data.cron_expression ?? "")}
            onChange={(event) => onChange({ ...data, cron_expression: event.target.value })}
          />
        </Field>
      ) : (
        <VisualSchedule data={data} onChange={onChange} />
      )}
      <Pick
        label={t.fields.timezone}
        value={zone}
        onChange={(timezone) => onChange({ ...data, timezone })}
        options={ZONES.includes(zone) ? ZONES : [zone, ...ZONES]}
      />
      <NextTimes times={times} />
    </>
  );
};

const VisualSchedule = ({ data, onChange }: Omit<ScheduleFieldOptions, "times">) => {
  const { t } = useChosen();
  const visual = (data.visual_config ?? {}) as Visual;
  const frequency = String(data.frequency || "daily");
  const put = (change: Visual) => onChange({ ...data, visual_config: { ...visual, ...change } });
  return (
    <>
      <Pick
        label={t.fields.frequency}
        value={frequency}
        onChange={(next) => onChange({ ...data, frequency: next })}
        options={FREQUENCIES.map((name) => [name, t.choices[name]] as const)}
      />
      {frequency === "hourly" ? (
        <Field label={t.fields.onMinute}>
          <input
            type="number"
            min={0}
            max={59}
            value={visual.on_minute ?? 0}
            onChange={(event) => put({ on_minute: Number(event.target.value) })}
          />
        </Field>
      ) : (
        <Field label={t.fields.time}>
          <input
            type="time"
            value={asField(visual.time ?? "12:00 AM")}
            onChange={(event) => event.target.value && put({ time: asFileTime(event.target.value) })}
          />
        </Field>
      )}
      {frequency === "weekly" && <Weekdays value={visual.weekdays ?? []} onChange={(weekdays) => put({ weekdays })} />}
      {frequency === "monthly" && (
        <MonthDays value={visual.monthly_days ?? []} onChange={(monthly_days) => put({ monthly_days })} />
      )}
    </>
  );
};

const NextTimes = ({ times }: { times: number[] }) => {
  const { t, time } = useChosen();
  if (!times.length) return null;
  return (
    <div role="status">
      <p className="soft small">{t.nextTimes}</p>
      <ul className="plain small">
        {times.map((timestamp) => (
          <li key={timestamp}>{time(timestamp)}</li>
        ))}
      </ul>
    </div>
  );
};

// Where a webhook is called: an address appears with the first draft that has the node.
export const WebhookAddress = ({ appId, node }: { appId: string; node: string }) => {
  const { t } = useChosen();
  const triggers = useQuery({ queryKey: ["apps", appId, "triggers"], queryFn: () => api.triggers(appId) });
  const mine = triggers.data?.find((trigger) => trigger.node === node);
  if (!mine?.address) return <p className="soft small">{t.addressAfterSaving}</p>;
  return (
    <>
      <Field label={t.fields.address} help={mine.is_live ? t.addressIsSecret : t.addressWhenPublished}>
        <input readOnly className="mono" value={mine.address} />
      </Field>
      <Copied text={mine.address} label={t.copyAddress} />
      <Field label={t.fields.draftAddress}>
        <input readOnly className="mono" value={mine.draft_address} />
      </Field>
      <Copied text={mine.draft_address ?? ""} label={t.copyDraftAddress} />
    </>
  );
};
