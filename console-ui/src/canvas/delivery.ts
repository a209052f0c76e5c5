// How people learn of a form: the ways that a human-input node has, and the recipients of its mails. What is not
// changed stays as it is in the file.
import { asObject, asObjects, type JsonObject } from "./file";

const isExternal = (recipient: JsonObject) => String(recipient.type ?? "external") === "external";

const recipientsOf = (config: JsonObject) => asObject(config.recipients);
const itemsOf = (config: JsonObject) => asObjects(recipientsOf(config).items);

const withItems = (config: JsonObject, items: JsonObject[]): JsonObject => ({
  ...config,
  recipients: { ...recipientsOf(config), items },
});

export const addressesOf = (config: JsonObject): string[] =>
  itemsOf(config)
    .filter(isExternal)
    .map((item) => String(item.email ?? ""));

// The lines of a text as addresses, each once.
export const addressesIn = (text: string): string[] => [
  ...new Set(
    text
      .split(/[\n,;]/)
      .map((line) => line.trim())
      .filter(Boolean),
  ),
];

// Members stay where they are, and so do the addresses that were there.
export const withAddresses = (config: JsonObject, addresses: readonly string[]): JsonObject => {
  const kept = itemsOf(config).filter((item) => !isExternal(item) || addresses.includes(String(item.email ?? "")));
  const before = addressesOf(config);
  const added = addresses
    .filter((address) => !before.includes(address))
    .map((email): JsonObject => ({ type: "external", email }));
  return withItems(config, [...kept, ...added]);
};

// Ids of accounts. Older files name them otherwise.
export const membersOf = (config: JsonObject): string[] =>
  itemsOf(config)
    .filter((item) => !isExternal(item))
    .map((item) => String(item.reference_id || item.user_id || ""));

export const withMember = (config: JsonObject, id: string): JsonObject =>
  membersOf(config).includes(id)
    ? config
    : withItems(config, [...itemsOf(config), { type: "member", reference_id: id }]);

export const withoutMember = (config: JsonObject, id: string): JsonObject =>
  withItems(
    config,
    itemsOf(config).filter((item) => isExternal(item) || String(item.reference_id || item.user_id || "") !== id),
  );

export const isForEveryone = (config: JsonObject): boolean => {
  const { include_bound_group, whole_workspace } = recipientsOf(config);
  return include_bound_group === true || whole_workspace === true;
};

// Older files have another name for it, which would count as well.
export const withEveryone = (config: JsonObject, is: boolean): JsonObject => {
  const { whole_workspace: _, ...recipients } = recipientsOf(config);
  return { ...config, recipients: { ...recipients, include_bound_group: is } };
};

export const newMethod = (type: string, id: string): JsonObject => ({
  id,
  type,
  enabled: true,
  config:
    type === "email"
      ? { recipients: { include_bound_group: false, items: [] }, subject: "", body: "{{#url#}}", debug_mode: false }
      : {},
});
