// The list of apps: which of them are shown, and how each is shown.
import type { Shape } from "../api";

export type App = Shape<"AppView">;
export interface AppFilter {
  text: string;
  // Ids of tags. An app with any of them is shown.
  tags: string[];
}
export const NO_FILTER: AppFilter = { text: "", tags: [] };

export const hasCanvas = (mode: string) => mode === "workflow" || mode === "advanced-chat" || mode === "rag-pipeline";

// Tags that are no longer there do not filter: otherwise one that is removed would hide every app.
export const matchingApps = <A extends Pick<App, "name" | "description" | "tags">>(
  apps: readonly A[],
  filter: AppFilter,
  existingTags: readonly string[],
): A[] => {
  const text = filter.text.trim().toLowerCase();
  const tags = filter.tags.filter((tag) => existingTags.includes(tag));
  return apps.filter((app) => {
    const hasText = `${app.name}\n${app.description}`.toLowerCase().includes(text);
    return hasText && (!tags.length || app.tags.some((tag) => tags.includes(tag.id)));
  });
};

export const toggled = (items: readonly string[], item: string): string[] =>
  items.includes(item) ? items.filter((other) => other !== item) : [...items, item];

const characters = new Intl.Segmenter();
// An emoji can consist of several code points.
const firstCharacter = (text: string): string => {
  for (const { segment } of characters.segment(text.trim())) return segment;
  return "";
};

const COLOUR = /^#(?:[0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8})$/i;
const PLAIN_TEXT = /^[\w\s-]+$/;

export interface Icon {
  text: string;
  // Empty for the page's own colour.
  background: string;
}

// An emoji with its background, else the first letter of the name. Pictures of other servers are not loaded, and old
// files have the name of an emoji instead of the emoji.
export const iconOf = (app: Pick<App, "name" | "icon" | "icon_type" | "icon_background">): Icon => {
  const isEmoji = (app.icon_type === "emoji" || !app.icon_type) && app.icon !== "" && !PLAIN_TEXT.test(app.icon);
  if (!isEmoji) return { text: firstCharacter(app.name).toUpperCase(), background: "" };
  return { text: firstCharacter(app.icon), background: COLOUR.test(app.icon_background) ? app.icon_background : "" };
};

// What somebody edits of how an app is shown.
export interface AppDetails {
  name: string;
  description: string;
  icon: string;
  icon_background: string;
  tags: string[];
}

export const DEFAULT_BACKGROUND = "#e5edff";
// The control for colours takes six digits alone.
const sixDigits = (colour: string): string => {
  if (!COLOUR.test(colour)) return DEFAULT_BACKGROUND;
  const digits = colour.slice(1).toLowerCase();
  return digits.length < 6 ? `#${[...digits.slice(0, 3)].map((digit) => digit + digit).join("")}` : colour.slice(0, 7);
};

export const detailsOf = (app: App): AppDetails => ({
  name: app.name,
  description: app.description,
  icon: app.icon_type === "emoji" || !app.icon_type ? app.icon : "",
  icon_background: sixDigits(app.icon_background),
  tags: app.tags.map((tag) => tag.id),
});

const isSameSet = (left: readonly string[], right: readonly string[]) =>
  left.length === right.length && left.every((item) => right.includes(item));

// Only what was changed is sent: an app keeps a picture, or a colour with transparency, unless another is chosen.
export const changeOf = (app: App, details: AppDetails): Shape<"AppChangeInput"> => {
  const before = detailsOf(app);
  const icon = details.icon.trim();
  return {
    ...(details.name.trim() !== before.name ? { name: details.name.trim() } : {}),
    ...(details.description !== before.description ? { description: details.description } : {}),
    ...(icon && icon !== before.icon ? { icon, icon_type: "emoji" as const } : {}),
    ...(details.icon_background !== before.icon_background ? { icon_background: details.icon_background } : {}),
    ...(isSameSet(details.tags, before.tags) ? {} : { tags: details.tags }),
  };
};
