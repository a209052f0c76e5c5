import { createElement } from "react";
import { describe, expect, test } from "vitest";
import { AppCard } from "../../src/pages/app-card";
import {
  type App,
  type AppFilter,
  changeOf,
  detailsOf,
  iconOf,
  matchingApps,
  NO_FILTER,
  toggled,
} from "../../src/pages/app-list";
import { AppFilterBar } from "../../src/pages/app-tags";
import { Templates } from "../../src/pages/app-templates";
import { Apps } from "../../src/pages/apps";
import { draw, T } from "../drawing";
import { Random, seeds } from "../random";

const TAGS = ["red", "green", "blue"].map((name) => ({ id: `tag-${name}`, name, apps: 1 }));
const IDS = TAGS.map((tag) => tag.id);

const app = (change: Partial<App> = {}): App => ({
  id: "a1",
  name: "Support",
  mode: "advanced-chat",
  description: "Answers questions",
  icon: "🎧",
  icon_type: "emoji",
  icon_background: "#FCE7F6",
  tags: [],
  is_enabled: true,
  is_published: true,
  has_draft: false,
  digest: "d",
  page: { is_on: false, origins: [], url: null },
  ...change,
});

const randomApp = (random: Random, index: number): App =>
  app({
    id: `app-${index}`,
    name: random.pick(["Support", "SUMMARISE", "tea é", ""]),
    description: random.pick(["", "Answers support questions", "x"]),
    tags: TAGS.filter(() => random.boolean()),
  });

describe("a filtered list", () => {
  test("has the apps with any of the tags and the text, in their order", () => {
    for (const seed of seeds(100)) {
      const random = new Random(seed);
      const apps = random.list(12, (index) => randomApp(random, index));
      const filter: AppFilter = {
        text: random.pick(["", " SUPPORT ", "é", "zzz"]),
        tags: random.list(3, () => random.pick(IDS)),
      };
      const text = filter.text.trim().toLowerCase();
      const expected = apps.filter(
        ({ name, description, tags }) =>
          (name.toLowerCase().includes(text) || description.toLowerCase().includes(text)) &&
          (filter.tags.length === 0 || tags.some((tag) => filter.tags.includes(tag.id))),
      );
      expect(matchingApps(apps, filter, IDS), `seed ${seed}`).toEqual(expected);
    }
  });

  test("is not emptied by a tag that was removed", () => {
    const apps = [app()];
    expect(matchingApps(apps, { text: "", tags: ["gone"] }, IDS)).toEqual(apps);
    expect(matchingApps(apps, { text: "", tags: ["gone", "tag-red"] }, IDS)).toEqual([]);
  });

  test("has a tag switched on and off", () => {
    expect(toggled(toggled([], "a"), "b")).toEqual(["a", "b"]);
    expect(toggled(["a", "b"], "a")).toEqual(["b"]);
  });
});

describe("an icon", () => {
  test.each([
    [{}, "🎧", "#FCE7F6"],
    [{ icon: "👩‍💻 more" }, "👩‍💻", "#FCE7F6"],
    [{ icon_background: "url(http://x)" }, "🎧", ""],
    [{ icon_background: "" }, "🎧", ""],
    // Of a picture, and of an old file that names its emoji, the first letter is shown.
    [{ icon: "https://shop.example/x.png", icon_type: "link" }, "S", ""],
    [{ icon: "2f1c-id", icon_type: "image" }, "S", ""],
    [{ icon: "robot_face" }, "S", ""],
    [{ icon: "" }, "S", ""],
    [{ icon: "", name: "éclair" }, "É", ""],
  ] as const)("of %j is %j on %j", (change, text, background) => {
    expect(iconOf(app(change))).toEqual({ text, background });
  });
});

describe("changed details", () => {
  test("are none if nothing was changed, whatever the app has", () => {
    for (const icon_background of ["#FCE7F6", "#abc", "#abcd", "#11223344", "", "red"])
      for (const icon of [{ icon: "🎧" }, { icon: "id", icon_type: "image" }, { icon: "", icon_type: "" }]) {
        const shown = app({ icon_background, ...icon, tags: TAGS.slice(0, 2) });
        const details = detailsOf(shown);
        expect(changeOf(shown, details)).toEqual({});
        expect(changeOf(shown, { ...details, tags: [...details.tags].reverse() })).toEqual({});
        // The browser's control for colours takes nothing else.
        expect(details.icon_background).toMatch(/^#[0-9a-f]{6}$/i);
      }
  });

  test("are sent, and nothing else", () => {
    const shown = app({ tags: TAGS.slice(0, 1), icon: "id", icon_type: "image" });
    const details = detailsOf(shown);
    expect(changeOf(shown, { ...details, name: " New " })).toEqual({ name: "New" });
    expect(changeOf(shown, { ...details, description: "" })).toEqual({ description: "" });
    expect(changeOf(shown, { ...details, icon: "🍵" })).toEqual({ icon: "🍵", icon_type: "emoji" });
    expect(changeOf(shown, { ...details, icon_background: "#000000" })).toEqual({ icon_background: "#000000" });
    expect(changeOf(shown, { ...details, tags: [] })).toEqual({ tags: [] });
  });
});

describe("a card", () => {
  test("has the app's icon, tags and menu", () => {
    const html = draw(createElement(AppCard, { app: app({ tags: TAGS.slice(0, 2) }) }));
    expect(html).toContain("🎧");
    expect(html).toContain("background-color:#FCE7F6");
    expect(html).toContain('aria-label="Tags"');
    expect(html).toContain(">red<");
    expect(html).toContain('aria-label="More actions for Support"');
  });

  test("without tags has no list of them", () => {
    expect(draw(createElement(AppCard, { app: app() }))).not.toContain('aria-label="Tags"');
  });
});

describe("the filter", () => {
  const bar = (filter: AppFilter, shownCount: number) =>
    draw(createElement(AppFilterBar, { filter, tags: TAGS, shownCount, count: 5, onChange: () => undefined }));

  test("says which tags are chosen, and how much it hides", () => {
    const html = bar({ text: "x", tags: ["tag-green"] }, 2);
    expect(html.match(/aria-pressed="true"[^>]*>green/)).toBeTruthy();
    expect(html.match(/aria-pressed="false"[^>]*>red/)).toBeTruthy();
    expect(html).toContain("2 of 5 apps");
    expect(bar(NO_FILTER, 5)).not.toContain("of 5 apps");
  });
});

describe("the page of apps", () => {
  const TEMPLATE = {
    id: "extract",
    name: "Extract data",
    mode: "workflow",
    description: "Fills in a form",
    icon: "🧾",
    icon_background: "#E0F2FE",
    needs_dataset: false,
  };

  test("says that it loads", () => {
    expect(draw(createElement(Apps))).toContain(T.loading);
  });

  test("says that there is nothing yet", () => {
    const html = draw(createElement(Apps), { data: [[["apps"], []]] });
    expect(html).toContain(T.noApps);
    expect(html).not.toContain(T.findApps);
  });

  test("says what went wrong, with apps and with templates", () => {
    const errors = { errors: [[["apps"], new Error("No apps today")]] } as never;
    expect(draw(createElement(Apps), errors)).toContain("No apps today");
    const others = { errors: [[["app templates"], new Error("No templates today")]] } as never;
    expect(draw(createElement(Templates), others)).toContain("No templates today");
  });

  test("lists apps and templates", () => {
    const html = draw(createElement(Apps), {
      data: [
        [["apps"], [app(), app({ id: "a2", name: "Other" })]],
        [["app tags"], TAGS],
        [["app templates"], [TEMPLATE]],
      ],
    });
    for (const text of ["Support", "Other", "Extract data", "Fills in a form", T.findApps])
      expect(html).toContain(text);
    expect(html).toContain('aria-label="Use template Extract data"');
  });

  test("offers to clear a filter that leaves nothing", () => {
    sessionStorage.setItem("modelyard.apps.filter", JSON.stringify({ text: "nothing", tags: [] }));
    const html = draw(createElement(Apps), { data: [[["apps"], [app()]]] });
    sessionStorage.removeItem("modelyard.apps.filter");
    expect(html).toContain(T.clearFilters);
    expect(html).not.toContain("More actions");
  });
});
