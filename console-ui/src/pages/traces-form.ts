// The form of a trace destination, and what it sends.
import type { Shape } from "../api";

export type Destination = Shape<"TraceDestinationView">;
export type Service = Shape<"TraceServiceView">;

export interface TraceForm {
  name: string;
  service: string;
  base_url: string;
  project: string;
  // By name; for a service that takes headers, by header.
  credentials: [name: string, value: string][];
  content: boolean;
  is_enabled: boolean;
}

export const NO_HEADERS: TraceForm["credentials"] = [["", ""]];

// The fields for credentials that a service has. Stored ones are never returned, so they start empty.
export const credentialFields = (service: Service | undefined): TraceForm["credentials"] => {
  if (!service || service.takes_headers) return NO_HEADERS;
  return [...service.credentials, ...service.optional].map((name) => [name, ""]);
};

export const newForm = (service: Service | undefined): TraceForm => ({
  name: service?.name ?? "",
  service: service?.name ?? "",
  base_url: "",
  project: "",
  credentials: credentialFields(service),
  content: true,
  is_enabled: true,
});

export const formOf = (destination: Destination, service: Service | undefined): TraceForm => ({
  name: destination.name,
  service: destination.service,
  base_url: destination.url,
  project: destination.project,
  credentials: credentialFields(service),
  content: destination.content,
  is_enabled: destination.is_enabled,
});

// The name of a new destination follows its service, until somebody gives it another.
export const withService = (form: TraceForm, service: Service | undefined): TraceForm => ({
  ...form,
  name: form.name === form.service ? (service?.name ?? "") : form.name,
  service: service?.name ?? "",
  base_url: "",
  credentials: credentialFields(service),
});

// Whether the stored credentials of a destination are still for what the form has.
export const keepsCredentials = (form: TraceForm, previous: Destination | undefined): boolean =>
  previous !== undefined &&
  previous.service === form.service &&
  previous.url === form.base_url.trim() &&
  previous.project === form.project.trim();

const filledIn = (form: TraceForm): [string, string][] =>
  form.credentials
    .map(([name, value]): [string, string] => [name.trim(), value.trim()])
    .filter(([name, value]) => name && value);

export const isRequired = (
  name: string,
  form: TraceForm,
  service: Service | undefined,
  previous: Destination | undefined,
): boolean => {
  const isNeeded = service?.credentials.includes(name) ?? false;
  // Some of the credentials alone would leave the destination without the others.
  return isNeeded && (!keepsCredentials(form, previous) || filledIn(form).length > 0);
};

export const inputOf = (form: TraceForm, previous?: Destination): Shape<"TraceDestinationInput"> => {
  const credentials = filledIn(form);
  const isKept = !credentials.length && keepsCredentials(form, previous);
  return {
    service: form.service,
    base_url: form.base_url.trim(),
    project: form.project.trim(),
    content: form.content,
    is_enabled: form.is_enabled,
    ...(isKept ? {} : { credentials: Object.fromEntries(credentials) }),
  };
};

// Another state of a destination, with everything else as it is stored.
export const switched = (destination: Destination, is_enabled: boolean): Shape<"TraceDestinationInput"> => ({
  service: destination.service,
  base_url: destination.url,
  project: destination.project,
  content: destination.content,
  is_enabled,
});
