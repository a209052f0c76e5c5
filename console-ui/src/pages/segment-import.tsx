// Rows of a CSV file become segments of a document, in a job of the server.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { api, type SegmentImport as Job } from "../api";
import { useDo } from "../components/actions";
import { Drop, Field, Trouble } from "../components/base";
import { filled } from "../messages";
import { useChosen } from "../settings";

export const isRunning = (job: Job | undefined): boolean =>
  job !== undefined && job.job_status !== "completed" && job.job_status !== "error";

export const SegmentImport = ({ id, doc }: { id: string; doc: string }) => {
  const { t } = useChosen();
  const client = useQueryClient();
  const [hasHeader, setHeader] = useState(true);
  const [encoding, setEncoding] = useState("");
  const start = useDo((file: File) => api.importSegments(id, doc, file, { hasHeader, encoding: encoding.trim() }));
  const started = start.data;
  const progress = useQuery({
    queryKey: ["segment import", doc, started?.job_id],
    queryFn: () => api.segmentImport(id, doc, started!.job_id),
    enabled: isRunning(started),
    refetchInterval: (query) => (isRunning(query.state.data) ? 1000 : false),
  });
  const job = progress.data ?? started;
  const isOver = job !== undefined && !isRunning(job);
  useEffect(() => {
    if (isOver) void client.invalidateQueries({ queryKey: ["segments", doc] });
  }, [isOver, client, doc]);
  return (
    <details>
      <summary>{t.importSegments}</summary>
      <p className="soft small">{t.importSegmentsText}</p>
      <div className="row">
        <label className="check">
          <input type="checkbox" checked={hasHeader} onChange={(event) => setHeader(event.target.checked)} />{" "}
          {t.firstRowIsHeader}
        </label>
        <Field label={`${t.encoding} (${t.optional})`} help={t.encodingHelp}>
          <input className="short" value={encoding} onChange={(event) => setEncoding(event.target.value)} />
        </Field>
      </div>
      {!start.isBusy && !isRunning(job) && (
        <Drop
          label={t.dropCsv}
          accept=".csv,.tsv,text/csv"
          multiple={false}
          onFiles={([file]) => {
            if (file) void start.run(file);
          }}
        />
      )}
      <Trouble of={[start, progress]} />
      <ImportProgress job={job} isBusy={start.isBusy} />
    </details>
  );
};

export const ImportProgress = ({ job, isBusy }: { job: Job | undefined; isBusy: boolean }) => {
  const { t } = useChosen();
  return (
    <div role="status">
      {isBusy && <progress aria-label={t.importSegments} />}
      {job && (
        <>
          <p>{filled(t.segmentsAdded, { added: job.added, total: job.total, failed: job.failed })}</p>
          {isRunning(job) && <progress aria-label={t.importSegments} max={job.total || 1} value={job.added} />}
          {job.error && <p className="wrong">{job.error}</p>}
          <ul className="plain">
            {job.errors.map((error) => (
              <li key={error.line} className="wrong small">
                {filled(t.line, { number: error.line })} {error.message}
              </li>
            ))}
          </ul>
        </>
      )}
    </div>
  );
};
