import { createElement } from "react";
import { describe, expect, test } from "vitest";
import type { NodeContext } from "../../src/canvas/controls";
import {
  addressesIn,
  addressesOf,
  isForEveryone,
  membersOf,
  newMethod,
  withAddresses,
  withEveryone,
  withMember,
  withoutMember,
} from "../../src/canvas/delivery";
import { FIELDS } from "../../src/canvas/fields";
import { asObject, asObjects, type JsonObject, read } from "../../src/canvas/file";
import { NodeField } from "../../src/canvas/node-fields";
import { draw, T } from "../drawing";
import { Random, seeds } from "../random";
import { APP_FILES } from "./graphs";

const ADDRESSES = ["ada@shop.example", "bob@shop.example", "eve@shop.example"];

const randomConfig = (random: Random): JsonObject => {
  const addresses = ADDRESSES.filter(() => random.boolean());
  const items: JsonObject[] = [
    ...addresses.map((email) => ({ type: "external", email, unknown: random.integer(0, 9) })),
    ...random.list(3, (index) => ({ type: "member", [random.pick(["reference_id", "user_id"])]: `m${index}` })),
  ].sort(() => random.next() - 0.5);
  return {
    recipients: { ...(random.boolean() ? { whole_workspace: random.boolean() } : {}), items },
    subject: "s",
    body: "b",
    unknown: 1,
  };
};

describe("recipients", () => {
  test("are the same if nothing is changed", () => {
    for (const seed of seeds(100)) {
      const config = randomConfig(new Random(seed));
      expect(withAddresses(config, addressesOf(config)), `seed ${seed}`).toEqual(config);
      const [member] = membersOf(config);
      if (member) expect(withMember(config, member), `seed ${seed}`).toEqual(config);
    }
  });

  test("are those that were typed, and the members that were there", () => {
    for (const seed of seeds(100)) {
      const random = new Random(seed);
      const config = randomConfig(random);
      const typed = ADDRESSES.filter(() => random.boolean());
      const changed = withAddresses(config, typed);
      expect([...addressesOf(changed)].sort(), `seed ${seed}`).toEqual(typed);
      expect(membersOf(changed), `seed ${seed}`).toEqual(membersOf(config));
      expect(changed.unknown).toBe(1);
      // What the file has beside an address stays with it.
      for (const item of asObjects(asObject(config.recipients).items))
        if (typed.includes(String(item.email))) expect(asObject(changed.recipients).items).toContainEqual(item);
    }
  });

  test("are members by their id, under either name", () => {
    const config = withMember(withMember({}, "m1"), "m2");
    expect(membersOf(config)).toEqual(["m1", "m2"]);
    expect(membersOf(withoutMember(config, "m1"))).toEqual(["m2"]);
    const old = { recipients: { items: [{ type: "member", user_id: "m3" }, { email: "ada@shop.example" }] } };
    expect(membersOf(withoutMember(old, "m3"))).toEqual([]);
    expect(addressesOf(withoutMember(old, "m3"))).toEqual(["ada@shop.example"]);
  });

  test("are everybody by either name, and nobody once that is off", () => {
    for (const name of ["include_bound_group", "whole_workspace"]) {
      const config = { recipients: { [name]: true, items: [] } };
      expect(isForEveryone(config)).toBe(true);
      expect(isForEveryone(withEveryone(config, false))).toBe(false);
    }
    expect(isForEveryone({})).toBe(false);
    expect(isForEveryone(withEveryone({}, true))).toBe(true);
  });

  test("are read from lines, commas and semicolons, each once", () => {
    expect(addressesIn(" a@x \n\nb@x,a@x; c@x ")).toEqual(["a@x", "b@x", "c@x"]);
    expect(addressesIn("")).toEqual([]);
  });
});

describe("the form of deliveries", () => {
  const within: NodeContext = {
    app: { document: {}, graph: { nodes: [], edges: [] } },
    id: "node",
    variables: [],
    titles: new Map(),
    appId: "a1",
    times: [],
    changeDocument: () => undefined,
  };
  const spec = FIELDS["human-input"]!.find(({ kind }) => kind === "delivery")!;
  const form = (data: JsonObject, mailProblem: string | null = null) =>
    draw(createElement(NodeField, { spec, data, within, onChange: () => undefined }), {
      data: [
        [["about"], { mail_problem: mailProblem }],
        [["who"], { mode: "single", account: null }],
        [["accounts"], [{ id: "m1", name: "Ada", email: "ada@here.example", role: "admin", tenant: "default" }]],
      ],
    });

  test("shows the ways of a file, also those that do not work here", () => {
    const [, text] = APP_FILES.find(([path]) => path.endsWith("dsl-0.7/human-input.yml"))!;
    const node = read(text).graph.nodes.find(({ data }) => data.node.type === "human-input")!.data.node;
    const html = form(node);
    for (const shown of ["Where the app is used", "Slack", "ada@shop.example", "Please review", T.mailBodyHelp])
      expect(html).toContain(shown);
    // A member of another workspace has no account here, and can be removed.
    expect(html).toContain("9a3b1c00-0000-0000-0000-000000000001 (not available)");
  });

  test("names accounts, and offers the others", () => {
    const mail = newMethod("email", "1");
    const html = form({ delivery_methods: [{ ...mail, config: withMember(asObject(mail.config), "m1") }] });
    expect(html).toContain("Ada (ada@here.example)");
    expect(html).not.toContain(T.addAccount);
    expect(form({ delivery_methods: [mail] })).toContain(T.addAccount);
  });

  test("says what to set while the server cannot send mail", () => {
    const data = { delivery_methods: [newMethod("email", "1")] };
    expect(form(data, "Mail is not set up: set mail.host")).toContain("Mail is not set up: set mail.host");
    expect(form(data)).not.toContain("Mail is not set up");
    // Whoever sends no mail need not know.
    expect(form({ delivery_methods: [newMethod("webapp", "1")] }, "Mail is not set up")).not.toContain("not set up");
  });

  test("is there for a node without any", () => {
    expect(form({})).toContain(T.addDelivery);
  });
});
