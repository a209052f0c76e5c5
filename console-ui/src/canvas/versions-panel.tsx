// The versions of an app, and how the one on the canvas differs from each.
import { useQuery } from "@tanstack/react-query";
import { useMemo, useState } from "react";
import { addressed, api, type Shape } from "../api";
import { Pick, Trouble } from "../components/base";
import { useChosen } from "../settings";
import { type DifferenceLine, difference } from "./difference";
import { read, write } from "./file";

const LINE_CLASSES: Record<DifferenceLine["sign"], string> = { "+": "plus", "-": "minus", " ": "" };

const Difference = ({ lines }: { lines: DifferenceLine[] }) => {
  const { t } = useChosen();
  if (!lines.length) return <p className="soft">{t.noDifference}</p>;
  return (
    <pre className="diff" tabIndex={0}>
      {lines.map((line, index) => (
        <span key={index} className={LINE_CLASSES[line.sign]}>
          {line.sign} {line.text}
          {"\n"}
        </span>
      ))}
    </pre>
  );
};

const VersionPick = ({
  versions,
  value,
  onChange,
}: {
  versions: Shape<"VersionView">[];
  value: string;
  onChange: (digest: string) => void;
}) => {
  const { t, time } = useChosen();
  const nameOf = (version: Shape<"VersionView">) => version.name || version.digest.slice(0, 8);
  return (
    <Pick
      label={t.compareWith}
      value={value}
      onChange={onChange}
      options={[
        ["", t.asSaved],
        ...versions.map((version) => [version.digest, `${nameOf(version)} · ${time(version.published_at)}`] as const),
      ]}
    />
  );
};

export const Versions = ({
  id,
  currentText,
  savedText,
  onTake,
}: {
  id: string;
  currentText: () => string;
  savedText: string;
  onTake: (text: string) => void;
}) => {
  const { t } = useChosen();
  const app = useQuery({ queryKey: ["apps", id], queryFn: () => api.app(id) });
  // Empty for the file as it was saved last.
  const [digest, setDigest] = useState("");
  const other = useQuery({
    queryKey: ["app file", id, "version", digest],
    queryFn: () => (digest ? api.appFile(id, digest) : Promise.resolve(savedText)),
    staleTime: Infinity,
  });
  const lines = useMemo(
    () => (other.data === undefined ? [] : difference(write(read(other.data)), currentText())),
    [other.data, currentText],
  );
  return (
    <aside className="inspector" aria-label={t.versions}>
      <h2>{t.versions}</h2>
      <VersionPick versions={app.data?.versions ?? []} value={digest} onChange={setDigest} />
      <div className="row">
        <a
          className="button"
          href={addressed(`/admin/v1/apps/${id}/file${digest ? `?version=${digest}` : ""}`)}
          download={`${app.data?.name ?? "app"}.yml`}
        >
          {t.exportFile}
        </a>
        {other.data !== undefined && (
          <button type="button" onClick={() => onTake(other.data)}>
            {t.takeThis}
          </button>
        )}
      </div>
      <Trouble of={[other]} />
      {other.data !== undefined && <Difference lines={lines} />}
    </aside>
  );
};
