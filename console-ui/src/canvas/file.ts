// An app's file and what is drawn of it. What the editor does not know of a file it leaves as it found it.
import dagre from "@dagrejs/dagre";
import type { Edge, Node } from "@xyflow/react";
import { parse, stringify } from "yaml";

export type Data = Record<string, unknown> & { type: string; title: string };
export type FlowNode = Node<{ node: Data } & Record<string, unknown>>;
type Raw = Record<string, unknown>;
export interface Drawn {
  nodes: FlowNode[];
  edges: Edge[];
}
export interface AppFile {
  document: Raw;
  drawn: Drawn;
}

const WIDTH = 220;
const HEIGHT = 76;
export const CONTAINERS = ["iteration", "loop"];
export const ROOTS = ["start", "trigger-webhook", "trigger-schedule", "trigger-plugin", "datasource"];
export const INNER = ["iteration-start", "loop-start"];

const record = (value: unknown): Raw =>
  value && typeof value === "object" && !Array.isArray(value) ? (value as Raw) : {};
const list = (value: unknown): Raw[] =>
  Array.isArray(value) ? (value.filter((one) => one && typeof one === "object") as Raw[]) : [];

// Errors where it is no YAML, or no app with a graph.
export const read = (text: string): AppFile => {
  const document = record(parse(text, { maxAliasCount: 1000 }));
  const graph = record(record(document.workflow).graph);
  const raws = list(graph.nodes);
  const ids = new Set(raws.map((one) => String(one.id)));
  const nodes = raws.map((one): FlowNode => {
    const data = record(one.data) as Data;
    const parent = String(one.parentId ?? data.iteration_id ?? data.loop_id ?? "");
    const position = record(one.position);
    const isContainer = CONTAINERS.includes(String(data.type));
    return {
      id: String(one.id),
      type: one.type === "custom-note" ? "note" : "step",
      data: {
        node: { ...data, type: String(data.type ?? ""), title: String(data.title ?? data.type ?? "") },
        raw: one,
      },
      position: { x: Number(position.x ?? 0), y: Number(position.y ?? 0) },
      ...(isContainer ? { style: { width: Number(one.width ?? 460), height: Number(one.height ?? 220) } } : {}),
      ...(parent && ids.has(parent) ? { parentId: parent } : {}),
    };
  });
  const edges = list(graph.edges)
    .filter((one) => ids.has(String(one.source)) && ids.has(String(one.target)))
    .map(
      (one): Edge => ({
        id: String(one.id ?? `${String(one.source)}-${String(one.sourceHandle ?? "source")}-${String(one.target)}`),
        source: String(one.source),
        target: String(one.target),
        sourceHandle: String(one.sourceHandle || "source"),
        targetHandle: "target",
        data: { raw: one },
      }),
    );
  // Containers go first: what is in them is placed by them.
  nodes.sort((a, b) => Number(!!a.parentId) - Number(!!b.parentId));
  return { document, drawn: { nodes, edges } };
};

export const write = ({ document, drawn }: AppFile): string => {
  const kinds = new Map(drawn.nodes.map((one) => [one.id, one.data.node.type]));
  const at = new Map(drawn.nodes.map((one) => [one.id, one]));
  const nodes = drawn.nodes.map((one) => {
    const size = one.style ?? {};
    return {
      ...record(one.data.raw),
      id: one.id,
      type: one.type === "note" ? "custom-note" : (record(one.data.raw).type ?? "custom"),
      data: one.data.node,
      position: { x: Math.round(one.position.x), y: Math.round(one.position.y) },
      ...(one.parentId ? { parentId: one.parentId } : {}),
      ...(size.width ? { width: Number(size.width), height: Number(size.height) } : {}),
    };
  });
  const edges = drawn.edges.map((one) => {
    const parent = at.get(one.source)?.parentId;
    const kind = parent ? kinds.get(parent) : "";
    return {
      ...record(record(one.data).raw),
      id: one.id,
      source: one.source,
      target: one.target,
      sourceHandle: one.sourceHandle || "source",
      targetHandle: "target",
      type: "custom",
      data: {
        ...record(record(record(one.data).raw).data),
        sourceType: kinds.get(one.source),
        targetType: kinds.get(one.target),
        isInIteration: kind === "iteration",
        isInLoop: kind === "loop",
      },
    };
  });
  const workflow = record(document.workflow);
  return stringify(
    { ...document, workflow: { ...workflow, graph: { ...record(workflow.graph), nodes, edges } } },
    { lineWidth: 0, aliasDuplicateObjects: false },
  );
};

export const blank = (name: string, mode: "workflow" | "advanced-chat"): string =>
  stringify({
    app: { name, mode, description: "", icon: "🧩", icon_type: "emoji", icon_background: "#E5EDFF" },
    kind: "app",
    version: "0.3.1",
    dependencies: [],
    workflow: {
      conversation_variables: [],
      environment_variables: [],
      features: {},
      graph: {
        nodes: [
          {
            id: "start",
            type: "custom",
            position: { x: 60, y: 200 },
            data: {
              type: "start",
              title: "Start",
              variables:
                mode === "workflow"
                  ? [{ variable: "text", label: "text", type: "paragraph", required: true, max_length: 10000 }]
                  : [],
            },
          },
        ],
        edges: [],
      },
    },
  });

// An app with one prompt: a chat, an agent with tools, or a form.
export const simple = (name: string, mode: string): string =>
  stringify({
    app: { name, mode, description: "", icon: "💬", icon_type: "emoji", icon_background: "#E5EDFF" },
    kind: "app",
    version: "0.3.1",
    dependencies: [],
    model_config: {
      model: { provider: "", name: "default", mode: "chat", completion_params: {} },
      pre_prompt: mode === "completion" ? "{{query}}" : "",
      opening_statement: "",
      suggested_questions: [],
      user_input_form:
        mode === "completion"
          ? [{ paragraph: { label: "Query", variable: "query", required: true, default: "" } }]
          : [],
      ...(mode === "agent-chat"
        ? { agent_mode: { enabled: true, strategy: "function_call", max_iteration: 10, tools: [] } }
        : {}),
    },
  });

let made = 0;
export const newId = () => `${Date.now()}${(made++ % 1000).toString().padStart(3, "0")}`;

// A node with what it needs to be of use at once.
export const fresh = (type: string, title: string, isChat: boolean): Data => {
  const model = { provider: "", name: "default", mode: "chat", completion_params: {} };
  const more: Record<string, Raw> = {
    start: { variables: [] },
    end: { outputs: [] },
    answer: { answer: "" },
    llm: {
      model,
      prompt_template: [
        { role: "system", text: "" },
        { role: "user", text: isChat ? "{{#sys.query#}}" : "" },
      ],
      context: { enabled: false, variable_selector: [] },
      vision: { enabled: false },
    },
    code: {
      variables: [],
      code_language: "python3",
      code: 'def main():\n    return {"result": ""}\n',
      outputs: { result: { type: "string", children: null } },
    },
    "template-transform": { variables: [], template: "" },
    "if-else": { cases: [{ case_id: "true", logical_operator: "and", conditions: [] }] },
    "question-classifier": {
      query_variable_selector: isChat ? ["sys", "query"] : [],
      model,
      classes: [
        { id: "1", name: "" },
        { id: "2", name: "" },
      ],
      instruction: "",
    },
    "parameter-extractor": {
      query: isChat ? ["sys", "query"] : [],
      model,
      parameters: [],
      instruction: "",
      reasoning_mode: "prompt",
    },
    "http-request": {
      method: "get",
      url: "",
      authorization: { type: "no-auth", config: null },
      headers: "",
      params: "",
      body: { type: "none", data: [] },
      timeout: {},
    },
    "knowledge-retrieval": {
      query_variable_selector: isChat ? ["sys", "query"] : [],
      dataset_ids: [],
      retrieval_mode: "multiple",
      multiple_retrieval_config: { top_k: 4, reranking_enable: false },
    },
    "variable-aggregator": { variables: [], output_type: "string" },
    assigner: { version: "2", items: [] },
    iteration: {
      iterator_selector: [],
      output_selector: [],
      output_type: "array[string]",
      is_parallel: false,
      parallel_nums: 10,
      error_handle_mode: "terminated",
    },
    loop: { loop_count: 10, break_conditions: [], logical_operator: "and", loop_variables: [] },
    "list-operator": {
      variable: [],
      filter_by: { enabled: false, conditions: [] },
      order_by: { enabled: false, key: "", value: "asc" },
      limit: { enabled: false, size: 10 },
    },
    "document-extractor": { variable_selector: [], is_array_file: false },
    tool: {
      provider_id: "",
      provider_type: "builtin",
      provider_name: "",
      tool_name: "",
      tool_label: "",
      tool_configurations: {},
      tool_parameters: {},
    },
    agent: {
      agent_strategy_provider_name: "",
      agent_strategy_name: "function_calling",
      agent_strategy_label: "",
      agent_parameters: {},
    },
    "human-input": {
      form_content: "",
      inputs: [],
      user_actions: [{ id: "ok", title: "OK", button_style: "primary" }],
      timeout: 1,
      timeout_unit: "day",
    },
    "trigger-webhook": {
      method: "POST",
      content_type: "application/json",
      headers: [],
      params: [],
      body: [],
      async_mode: true,
      status_code: 200,
      response_body: "",
    },
    "trigger-schedule": {
      mode: "visual",
      frequency: "daily",
      visual_config: { on_minute: 0, time: "9:00 AM", weekdays: ["mon"], monthly_days: [1] },
      cron_expression: "0 9 * * *",
      timezone: Intl.DateTimeFormat().resolvedOptions().timeZone,
    },
    "trigger-plugin": { plugin_id: "", provider_id: "", event_name: "", subscription_id: "", event_parameters: {} },
    datasource: { plugin_id: "", provider_type: "local_file", provider_name: "", datasource_name: "" },
  };
  return { type, title, ...(more[type] ?? {}) } as Data;
};

// Handles on the right of a node: what its branches are called.
export const handles = (data: Data): { id: string; label: string }[] => {
  const fail = data.error_strategy === "fail-branch" ? [{ id: "fail-branch", label: "⚠" }] : [];
  switch (data.type) {
    case "if-else": {
      const cases = list(data.cases);
      return [
        ...(cases.length ? cases : [{ case_id: "true" } as Raw]).map((one, at) => ({
          id: String(one.case_id ?? one.id),
          label: at ? `ELIF ${at}` : "IF",
        })),
        { id: "false", label: "ELSE" },
      ];
    }
    case "question-classifier":
      return [...list(data.classes).map((one) => ({ id: String(one.id), label: String(one.name || one.id) })), ...fail];
    case "human-input":
      return [
        ...list(data.user_actions).map((one) => ({ id: String(one.id), label: String(one.title || one.id) })),
        { id: "__timeout", label: "⏱" },
      ];
    case "end":
    case "answer":
    case "loop-end":
      return data.type === "answer" ? [{ id: "source", label: "" }] : [];
    default:
      return [{ id: "source", label: "" }, ...fail];
  }
};

export interface Variable {
  selector: string[];
  kind: string;
}

const OUTPUTS: Record<string, [string, string][]> = {
  llm: [
    ["text", "string"],
    ["reasoning_content", "string"],
    ["usage", "object"],
  ],
  "template-transform": [["output", "string"]],
  "variable-aggregator": [["output", "any"]],
  "variable-assigner": [["output", "any"]],
  "http-request": [
    ["body", "string"],
    ["status_code", "number"],
    ["headers", "object"],
    ["files", "array[file]"],
  ],
  "knowledge-retrieval": [["result", "array[object]"]],
  "question-classifier": [
    ["class_name", "string"],
    ["class_label", "string"],
  ],
  "parameter-extractor": [
    ["__is_success", "number"],
    ["__reason", "string"],
  ],
  iteration: [["output", "array"]],
  "list-operator": [
    ["result", "array"],
    ["first_record", "any"],
    ["last_record", "any"],
  ],
  "document-extractor": [["text", "string"]],
  tool: [
    ["text", "string"],
    ["files", "array[file]"],
    ["json", "array[object]"],
  ],
  agent: [
    ["text", "string"],
    ["files", "array[file]"],
    ["json", "array[object]"],
  ],
  "human-input": [
    ["__action_id", "string"],
    ["__rendered_content", "string"],
  ],
};

export const outputs = (id: string, data: Data): Variable[] => {
  const named: [string, string][] = [...(OUTPUTS[data.type] ?? [])];
  if (data.type === "start")
    named.push(...list(data.variables).map((one): [string, string] => [String(one.variable), String(one.type)]));
  if (data.type === "code")
    named.push(
      ...Object.entries(record(data.outputs)).map(([name, one]): [string, string] => [name, String(record(one).type)]),
    );
  if (data.type === "parameter-extractor")
    named.push(...list(data.parameters).map((one): [string, string] => [String(one.name), String(one.type)]));
  if (data.type === "human-input")
    named.push(...list(data.inputs).map((one): [string, string] => [String(one.output_variable_name), "string"]));
  if (data.type === "loop")
    named.push(...list(data.loop_variables).map((one): [string, string] => [String(one.label), String(one.var_type)]));
  if (data.type === "llm" && data.structured_output_enabled) named.push(["structured_output", "object"]);
  if (data.type === "trigger-webhook")
    for (const part of ["headers", "params", "body"])
      named.push(
        ...list(data[part]).map((one): [string, string] => [String(one.name).replaceAll("-", "_"), String(one.type)]),
      );
  if (data.type === "trigger-plugin")
    for (const [name, one] of Object.entries(record(record(data.output_schema).properties)))
      named.push([name, String(record(one).type ?? "any")]);
  return named.map(([name, kind]) => ({ selector: [id, name], kind }));
};

// What a node may read: of those before it, of the containers it stands in, and what every app has.
export const readable = (id: string, { document, drawn }: AppFile): Variable[] => {
  const before = new Set<string>();
  const todo = [id];
  const parents = new Map(drawn.nodes.map((one) => [one.id, one.parentId]));
  while (todo.length) {
    const at = todo.pop()!;
    const parent = parents.get(at);
    if (parent && !before.has(parent)) {
      before.add(parent);
      todo.push(parent);
    }
    for (const edge of drawn.edges)
      if (edge.target === at && !before.has(edge.source)) {
        before.add(edge.source);
        todo.push(edge.source);
      }
  }
  const mode = String(record(document.app).mode);
  const workflow = record(document.workflow);
  const kindOf = new Map(drawn.nodes.map((one) => [one.id, one.data.node]));
  const within = [...before].flatMap((one) => {
    const data = kindOf.get(one);
    if (!data) return [];
    if (data.type === "iteration" && parents.get(id) === one)
      return [
        { selector: [one, "item"], kind: "any" },
        { selector: [one, "index"], kind: "number" },
      ];
    return outputs(one, data);
  });
  return [
    ...within,
    ...(mode === "advanced-chat"
      ? [
          ["query", "string"],
          ["files", "array[file]"],
          ["conversation_id", "string"],
          ["dialogue_count", "number"],
        ]
      : [["files", "array[file]"]]
    ).map(([name, kind]) => ({ selector: ["sys", name!], kind: kind! })),
    { selector: ["sys", "user_id"], kind: "string" },
    ...list(workflow.environment_variables).map((one) => ({
      selector: ["env", String(one.name)],
      kind: String(one.value_type ?? "string"),
    })),
    ...list(workflow.conversation_variables).map((one) => ({
      selector: ["conversation", String(one.name)],
      kind: String(one.value_type ?? "string"),
    })),
  ];
};

// From left to right, each container's inside by itself.
export const laidOut = ({ nodes, edges }: Drawn): Drawn => {
  const placed = new Map<string, { x: number; y: number }>();
  const sizes = new Map<string, { width: number; height: number }>();
  const levels = ["", ...nodes.filter((one) => CONTAINERS.includes(one.data.node.type)).map((one) => one.id)].reverse();
  for (const level of levels) {
    const here = nodes.filter((one) => (one.parentId ?? "") === level);
    if (!here.length) continue;
    const graph = new dagre.graphlib.Graph()
      .setGraph({ rankdir: "LR", nodesep: 40, ranksep: 80 })
      .setDefaultEdgeLabel(() => ({}));
    for (const one of here) graph.setNode(one.id, { ...(sizes.get(one.id) ?? { width: WIDTH, height: HEIGHT }) });
    for (const edge of edges)
      if (graph.hasNode(edge.source) && graph.hasNode(edge.target)) graph.setEdge(edge.source, edge.target);
    dagre.layout(graph);
    let right = 0,
      bottom = 0;
    for (const one of here) {
      const { x, y, width, height } = graph.node(one.id) as { x: number; y: number; width: number; height: number };
      const at = { x: x - width / 2 + (level ? 30 : 60), y: y - height / 2 + (level ? 70 : 60) };
      placed.set(one.id, at);
      right = Math.max(right, at.x + width);
      bottom = Math.max(bottom, at.y + height);
    }
    if (level) sizes.set(level, { width: right + 30, height: bottom + 30 });
  }
  return {
    edges,
    nodes: nodes.map((one) => ({
      ...one,
      position: placed.get(one.id) ?? one.position,
      ...(sizes.has(one.id) ? { style: { ...one.style, ...sizes.get(one.id)! } } : {}),
    })),
  };
};

// What is new and what is gone between two files, line by line.
export const difference = (before: string, after: string): { sign: " " | "+" | "-"; text: string }[] => {
  const a = before.split("\n"),
    b = after.split("\n");
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const x = a.slice(head, a.length - tail),
    y = b.slice(head, b.length - tail);
  if (x.length * y.length > 4_000_000)
    return [...x.map((text) => ({ sign: "-" as const, text })), ...y.map((text) => ({ sign: "+" as const, text }))];
  const table = Array.from({ length: x.length + 1 }, () => new Uint32Array(y.length + 1));
  for (let i = x.length - 1; i >= 0; i--)
    for (let j = y.length - 1; j >= 0; j--)
      table[i]![j] = x[i] === y[j] ? table[i + 1]![j + 1]! + 1 : Math.max(table[i + 1]![j]!, table[i]![j + 1]!);
  const found: { sign: " " | "+" | "-"; text: string }[] = [];
  let i = 0,
    j = 0;
  while (i < x.length || j < y.length) {
    if (i < x.length && j < y.length && x[i] === y[j]) {
      found.push({ sign: " ", text: x[i]! });
      i++;
      j++;
    } else if (i < x.length && (j >= y.length || table[i + 1]![j]! >= table[i]![j + 1]!))
      found.push({ sign: "-", text: x[i++]! });
    else found.push({ sign: "+", text: y[j++]! });
  }
  const around = (at: number) => found.slice(Math.max(0, at - 3), at + 4).some((one) => one.sign !== " ");
  return [
    ...a.slice(Math.max(0, head - 3), head).map((text) => ({ sign: " " as const, text })),
    ...found.filter((one, at) => one.sign !== " " || around(at)),
  ];
};
