// What a new app and a new node start with.
import { writeYaml } from "../yaml";
import type { JsonObject, NodeData } from "./file";

const ICON = { icon_type: "emoji", icon_background: "#E5EDFF" };
const defaultModel = () => ({ provider: "", name: "default", mode: "chat", completion_params: {} });

const appFile = (app: JsonObject, parts: JsonObject): string =>
  writeYaml({ app, kind: "app", version: "0.3.1", dependencies: [], ...parts });

const startNode = (mode: "workflow" | "advanced-chat") => ({
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
});

export const blankWorkflow = (name: string, mode: "workflow" | "advanced-chat"): string =>
  appFile(
    { name, mode, description: "", icon: "🧩", ...ICON },
    {
      workflow: {
        conversation_variables: [],
        environment_variables: [],
        features: {},
        graph: { nodes: [startNode(mode)], edges: [] },
      },
    },
  );

// An app with one prompt: a chat, an agent with tools, or a form.
export const blankPromptApp = (name: string, mode: string): string => {
  const isForm = mode === "completion";
  return appFile(
    { name, mode, description: "", icon: "💬", ...ICON },
    {
      model_config: {
        model: defaultModel(),
        pre_prompt: isForm ? "{{query}}" : "",
        opening_statement: "",
        suggested_questions: [],
        user_input_form: isForm
          ? [{ paragraph: { label: "Query", variable: "query", required: true, default: "" } }]
          : [],
        ...(mode === "agent-chat"
          ? { agent_mode: { enabled: true, strategy: "function_call", max_iteration: 10, tools: [] } }
          : {}),
      },
    },
  );
};

// What the menu calls an agent node of version 2.
export const AGENT_JOB = "agent-job";

let idCount = 0;
export const newId = () => `${Date.now()}${(idCount++ % 1000).toString().padStart(3, "0")}`;

const modelNodes = (querySelector: string[], userPrompt: string): Record<string, JsonObject> => ({
  llm: {
    model: defaultModel(),
    prompt_template: [
      { role: "system", text: "" },
      { role: "user", text: userPrompt },
    ],
    context: { enabled: false, variable_selector: [] },
    vision: { enabled: false },
  },
  "question-classifier": {
    query_variable_selector: querySelector,
    model: defaultModel(),
    classes: [
      { id: "1", name: "" },
      { id: "2", name: "" },
    ],
    instruction: "",
  },
  "parameter-extractor": {
    query: querySelector,
    model: defaultModel(),
    parameters: [],
    instruction: "",
    reasoning_mode: "prompt",
  },
  "knowledge-retrieval": {
    query_variable_selector: querySelector,
    dataset_ids: [],
    retrieval_mode: "multiple",
    multiple_retrieval_config: { top_k: 4, reranking_enable: false },
  },
  agent: {
    agent_strategy_provider_name: "",
    agent_strategy_name: "function_calling",
    agent_strategy_label: "",
    agent_parameters: {},
  },
  // An agent node with a task has the same type as one with a strategy, and another version.
  [AGENT_JOB]: {
    type: "agent",
    version: "2",
    agent_node_kind: "dify_agent",
    agent_job: {
      schema_version: 1,
      mode: "tell_agent_what_to_do",
      workflow_prompt: userPrompt,
      previous_node_output_refs: [],
      declared_outputs: [],
      human_contacts: [],
    },
  },
});

const controlNodes = (): Record<string, JsonObject> => ({
  start: { variables: [] },
  end: { outputs: [] },
  answer: { answer: "" },
  "if-else": { cases: [{ case_id: "true", logical_operator: "and", conditions: [] }] },
  iteration: {
    iterator_selector: [],
    output_selector: [],
    output_type: "array[string]",
    is_parallel: false,
    parallel_nums: 10,
    error_handle_mode: "terminated",
  },
  loop: { loop_count: 10, break_conditions: [], logical_operator: "and", loop_variables: [] },
  "human-input": {
    form_content: "",
    inputs: [],
    user_actions: [{ id: "ok", title: "OK", button_style: "primary" }],
    timeout: 1,
    timeout_unit: "day",
  },
});

const dataNodes = (): Record<string, JsonObject> => ({
  code: {
    variables: [],
    code_language: "python3",
    code: 'def main():\n    return {"result": ""}\n',
    outputs: { result: { type: "string", children: null } },
  },
  "template-transform": { variables: [], template: "" },
  "http-request": {
    method: "get",
    url: "",
    authorization: { type: "no-auth", config: null },
    headers: "",
    params: "",
    body: { type: "none", data: [] },
    timeout: {},
  },
  "variable-aggregator": { variables: [], output_type: "string" },
  assigner: { version: "2", items: [] },
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
});

const triggerNodes = (): Record<string, JsonObject> => ({
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
});

// The data of a new node, with what it needs to be usable at once. In a chat, it reads the user's message.
export const newNodeData = (type: string, title: string, isChat: boolean): NodeData => {
  const defaults: Record<string, JsonObject> = {
    ...modelNodes(isChat ? ["sys", "query"] : [], isChat ? "{{#sys.query#}}" : ""),
    ...controlNodes(),
    ...dataNodes(),
    ...triggerNodes(),
  };
  return { type, title, ...defaults[type] };
};
