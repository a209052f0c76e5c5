import { createElement } from "react";
import { describe, expect, test } from "vitest";
import { CredentialFields, Traces, TraceTestResult } from "../../src/pages/app-traces";
import {
  credentialFields,
  type Destination,
  formOf,
  inputOf,
  isRequired,
  newForm,
  type Service,
  switched,
  type TraceForm,
  withService,
} from "../../src/pages/traces-form";
import { draw, T } from "../drawing";

const LANGFUSE: Service = {
  name: "langfuse",
  default_url: "https://cloud.langfuse.com",
  credentials: ["public_key", "secret_key"],
  optional: [],
  takes_headers: false,
};
const PHOENIX: Service = {
  name: "phoenix",
  default_url: "",
  credentials: [],
  optional: ["api_key"],
  takes_headers: false,
};
const OTLP: Service = { name: "otlp", default_url: "", credentials: [], optional: [], takes_headers: true };
const SERVICES = [LANGFUSE, PHOENIX, OTLP];

const STORED: Destination = {
  name: "main",
  service: "langfuse",
  url: "https://cloud.langfuse.com/api/public/otel/v1/traces",
  project: "p",
  content: false,
  is_enabled: true,
  sent: 3,
  dropped: 1,
  error: "The destination answered with status 401",
};

describe("a new destination", () => {
  test("has the fields of its service, and its name until it gets another", () => {
    const form = newForm(LANGFUSE);
    expect(form.name).toBe("langfuse");
    expect(form.credentials.map(([name]) => name)).toEqual(["public_key", "secret_key"]);
    expect(withService(form, PHOENIX).name).toBe("phoenix");
    expect(withService({ ...form, name: "mine" }, PHOENIX)).toMatchObject({ name: "mine", service: "phoenix" });
    expect(credentialFields(OTLP)).toEqual([["", ""]]);
    expect(credentialFields(undefined)).toEqual([["", ""]]);
  });

  test("sends what was filled in, without spaces around it", () => {
    const form: TraceForm = {
      ...newForm(LANGFUSE),
      base_url: " http://x ",
      credentials: [
        ["public_key", " pk "],
        ["secret_key", ""],
      ],
    };
    expect(inputOf(form)).toEqual({
      service: "langfuse",
      base_url: "http://x",
      project: "",
      content: true,
      is_enabled: true,
      credentials: { public_key: "pk" },
    });
    const headers: TraceForm = {
      ...newForm(OTLP),
      credentials: [
        ["x-scope", "t"],
        ["", "lost"],
        ["empty", ""],
      ],
    };
    expect(inputOf(headers).credentials).toEqual({ "x-scope": "t" });
  });

  test("needs the credentials that its service needs", () => {
    const form = newForm(LANGFUSE);
    expect(isRequired("public_key", form, LANGFUSE, undefined)).toBe(true);
    expect(isRequired("api_key", newForm(PHOENIX), PHOENIX, undefined)).toBe(false);
  });
});

describe("a stored destination", () => {
  const form = formOf(STORED, LANGFUSE);

  test("keeps its credentials if they are not given again", () => {
    expect(inputOf(form, STORED)).toEqual({
      service: "langfuse",
      base_url: STORED.url,
      project: "p",
      content: false,
      is_enabled: true,
    });
    expect(isRequired("secret_key", form, LANGFUSE, STORED)).toBe(false);
    expect(inputOf({ ...form, content: true }, STORED)).not.toHaveProperty("credentials");
    expect(switched(STORED, false)).toEqual({ ...inputOf(form, STORED), is_enabled: false });
  });

  test.each([{ base_url: "http://elsewhere" }, { project: "q" }, { service: "otlp" }])(
    "needs them again with %j",
    (change) => {
      const changed = { ...form, ...change };
      expect(inputOf(changed, STORED)).toHaveProperty("credentials");
      expect(isRequired("secret_key", changed, LANGFUSE, STORED)).toBe(true);
    },
  );

  test("needs all of them if one is given", () => {
    const changed: TraceForm = {
      ...form,
      credentials: [
        ["public_key", "pk"],
        ["secret_key", ""],
      ],
    };
    expect(isRequired("secret_key", changed, LANGFUSE, STORED)).toBe(true);
    expect(inputOf(changed, STORED).credentials).toEqual({ public_key: "pk" });
  });
});

describe("the page of traces", () => {
  const page = (answers: Parameters<typeof draw>[1]) => draw(createElement(Traces, { id: "a1" }), answers);

  test("shows where traces go, and what became of them", () => {
    const html = page({ data: [[["traces", "a1"], { data: [STORED], services: SERVICES }]] });
    for (const text of ["main", "Langfuse · p", STORED.url, "3 sent, 1 dropped", STORED.error])
      expect(html).toContain(text);
  });

  test("says that it loads, that there is nothing, and what went wrong", () => {
    expect(page({})).toContain(T.loading);
    expect(page({ data: [[["traces", "a1"], { data: [], services: SERVICES }]] })).toContain(T.noDestinations);
    expect(page({ errors: [[["traces", "a1"], new Error("Not an administrator")]] })).toContain("Not an administrator");
  });

  test("has a test for each destination that is on, with what became of it", () => {
    const stored = (is_enabled: boolean) =>
      page({ data: [[["traces", "a1"], { data: [{ ...STORED, is_enabled }], services: SERVICES }]] });
    expect(stored(true)).toContain('aria-label="Send a test to main"');
    expect(stored(true)).not.toMatch(/disabled=""[^>]*aria-label="Send a test to main"/);
    expect(stored(false)).toMatch(/disabled=""[^>]*aria-label="Send a test to main"/);
    const result = (accepted: boolean, error: string) =>
      draw(createElement(TraceTestResult, { result: { accepted, error } }));
    expect(result(true, "")).toContain(T.testAccepted);
    expect(result(false, "The destination answered with status 401")).toContain("status 401");
  });

  const fields = (form: TraceForm, service: Service, previous?: Destination) =>
    draw(createElement(CredentialFields, { form, service, previous, onChange: () => undefined }));

  test("masks what somebody types", () => {
    const html = fields({ ...newForm(LANGFUSE), credentials: [["secret_key", "s"]] }, LANGFUSE);
    expect(html).toContain('type="password"');
    expect(html).toContain("required");
    expect(html).not.toContain('type="text"');
    expect(fields(newForm(OTLP), OTLP)).toContain('type="password"');
  });

  test("says that stored credentials stay", () => {
    expect(fields(formOf(STORED, LANGFUSE), LANGFUSE, STORED)).toContain(T.keepSecrets);
    expect(fields(newForm(LANGFUSE), LANGFUSE)).not.toContain(T.keepSecrets);
    const headers = { ...STORED, service: "otlp" };
    expect(fields(formOf(headers, OTLP), OTLP, headers)).toContain(T.keepSecrets);
  });
});
