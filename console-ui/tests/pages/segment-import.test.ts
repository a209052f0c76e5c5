import { createElement } from "react";
import { describe, expect, test } from "vitest";
import { api, type SegmentImport as Job } from "../../src/api";
import { ImportProgress, isRunning, SegmentImport } from "../../src/pages/segment-import";
import { draw, T } from "../drawing";
import { json, serve } from "../server";

const job = (change: Partial<Job> = {}): Job => ({
  job_id: "j1",
  job_status: "processing",
  total: 10,
  added: 4,
  failed: 1,
  errors: [{ line: 7, message: "The content is empty" }],
  error: null,
  ...change,
});

describe("an import of segments", () => {
  test("is over when it is completed or has failed", () => {
    expect(["waiting", "processing", "completed", "error"].map((job_status) => isRunning(job({ job_status })))).toEqual(
      [true, true, false, false],
    );
    expect(isRunning(undefined)).toBe(false);
  });

  test("shows how far it is, and each row that is no segment", () => {
    const html = draw(createElement(ImportProgress, { job: job(), isBusy: false }));
    expect(html).toContain("4 of 10 rows added, 1 with errors.");
    expect(html).toContain("<progress");
    expect(html).toContain("Line 7: The content is empty");
    const ended = draw(
      createElement(ImportProgress, { job: job({ job_status: "error", error: "Stopped" }), isBusy: false }),
    );
    expect(ended).not.toContain("<progress");
    expect(ended).toContain("Stopped");
    expect(draw(createElement(ImportProgress, { job: undefined, isBusy: true }))).toContain("<progress");
  });

  test("begins with a file and how it is read", () => {
    const html = draw(createElement(SegmentImport, { id: "d1", doc: "doc1" }));
    for (const text of [T.dropCsv, T.firstRowIsHeader, T.encoding]) expect(html).toContain(text);
  });

  test("sends the file as the server reads it", async () => {
    const requests = serve(() => json(job()));
    const file = new File(["content\nx"], "rows.csv");
    await api.importSegments("d1", "doc1", file, { hasHeader: false, encoding: "" });
    await api.importSegments("d1", "doc1", file, { hasHeader: true, encoding: "gb18030" });
    await api.segmentImport("d1", "doc1", "j1");
    const path = "/v1/datasets/d1/documents/doc1/segments/batch_import";
    expect(requests.map((request) => new URL(request.url).pathname)).toEqual([path, path, `${path}/j1`]);
    const forms = await Promise.all(requests.slice(0, 2).map((request) => request.formData()));
    expect(forms.map((form) => [form.get("has_header"), form.get("encoding")])).toEqual([
      ["false", null],
      ["true", "gb18030"],
    ]);
    expect((forms[0]!.get("file") as File).name).toBe("rows.csv");
  });
});
