import { AGENT_JOB_FIELDS } from "./agent-fields";
import { isAgentJob } from "./agent-job";

// The forms of node types. Labels are keys of `t.fields`. A node's other settings can be edited as YAML.
export type Kind =
  | "text"
  | "area"
  | "template"
  | "python"
  | "number"
  | "switch"
  | "select"
  | "selector"
  | "selectors"
  | "list"
  | "model"
  | "strings"
  | "outputs"
  | "datasets"
  | "tool"
  | "strategy"
  | "datasource"
  | "event"
  | "schedule"
  | "address"
  | "json"
  | "conditions"
  | "group"
  | "agent"
  | "soulModel"
  | "soulTools"
  | "outputReferences"
  | "outputsSchema"
  | "delivery"
  | "promptGenerator"
  | "codeGenerator"
  | "schemaGenerator";
export interface FieldSpec {
  path: string;
  label: string;
  kind: Kind;
  options?: string[];
  of?: FieldSpec[];
  fresh?: Record<string, unknown>;
  // What the server takes where the file says nothing.
  otherwise?: unknown;
  when?: (data: Record<string, unknown>) => boolean;
}

export const OPERATORS = [
  "contains",
  "not contains",
  "start with",
  "end with",
  "is",
  "is not",
  "empty",
  "not empty",
  "in",
  "not in",
  "=",
  "≠",
  ">",
  "<",
  "≥",
  "≤",
  "null",
  "not null",
  "exists",
  "not exists",
];
export const WITHOUT_VALUE = new Set(["empty", "not empty", "null", "not null", "exists", "not exists"]);
const variables: FieldSpec = {
  path: "variables",
  label: "readsVariables",
  kind: "list",
  fresh: { variable: "", value_selector: [] },
  of: [
    { path: "variable", label: "name", kind: "text" },
    { path: "value_selector", label: "value", kind: "selector" },
  ],
};
export const VALUE_TYPES = ["string", "number", "boolean", "object", "array[string]", "array[number]", "array[object]"];
const parameters = (path: string): FieldSpec => ({
  path,
  label: path,
  kind: "list",
  fresh: { name: "", type: "string", required: false },
  of: [
    { path: "name", label: "name", kind: "text" },
    { path: "type", label: "type", kind: "select", options: VALUE_TYPES },
    { path: "required", label: "required", kind: "switch" },
  ],
});
const memory: FieldSpec[] = [
  { path: "memory.window.enabled", label: "memoryWindow", kind: "switch" },
  { path: "memory.window.size", label: "memorySize", kind: "number" },
];

const isStrategy = (data: Record<string, unknown>) => !isAgentJob(data);
// Two forms for one type of node: each of its fields is for one version.
const whenAlso = (spec: FieldSpec, is: (data: Record<string, unknown>) => boolean): FieldSpec => ({
  ...spec,
  when: (data) => is(data) && (spec.when?.(data) ?? true),
});

export const FIELDS: Record<string, FieldSpec[]> = {
  start: [
    {
      path: "variables",
      label: "inputs",
      kind: "list",
      fresh: { variable: "", label: "", type: "text-input", required: true },
      of: [
        { path: "variable", label: "name", kind: "text" },
        { path: "label", label: "label", kind: "text" },
        {
          path: "type",
          label: "type",
          kind: "select",
          options: ["text-input", "paragraph", "select", "number", "checkbox", "file", "file-list", "json_object"],
        },
        { path: "required", label: "required", kind: "switch" },
        { path: "max_length", label: "maxLength", kind: "number" },
        { path: "options", label: "options", kind: "strings", when: (data) => data.type === "select" },
      ],
    },
  ],
  end: [
    {
      path: "outputs",
      label: "outputs",
      kind: "list",
      fresh: { variable: "", value_selector: [] },
      of: [
        { path: "variable", label: "name", kind: "text" },
        { path: "value_selector", label: "value", kind: "selector" },
      ],
    },
  ],
  answer: [{ path: "answer", label: "answer", kind: "template" }],
  llm: [
    { path: "model", label: "model", kind: "model" },
    {
      path: "prompt_template",
      label: "prompt",
      kind: "list",
      fresh: { role: "user", text: "" },
      of: [
        { path: "role", label: "role", kind: "select", options: ["system", "user", "assistant"] },
        { path: "text", label: "text", kind: "template" },
      ],
    },
    { path: "prompt_template", label: "prompt", kind: "promptGenerator" },
    { path: "context.enabled", label: "usesContext", kind: "switch" },
    {
      path: "context.variable_selector",
      label: "context",
      kind: "selector",
      when: (data) => !!(data.context as { enabled?: boolean } | undefined)?.enabled,
    },
    { path: "vision.enabled", label: "vision", kind: "switch" },
    {
      path: "vision.configs.variable_selector",
      label: "pictures",
      kind: "selector",
      when: (data) => !!(data.vision as { enabled?: boolean } | undefined)?.enabled,
    },
    ...memory,
    { path: "structured_output_enabled", label: "structuredOutput", kind: "switch" },
    {
      path: "structured_output.schema",
      label: "schema",
      kind: "json",
      when: (data) => !!data.structured_output_enabled,
    },
    {
      path: "structured_output.schema",
      label: "schema",
      kind: "schemaGenerator",
      when: (data) => !!data.structured_output_enabled,
    },
  ],
  code: [
    variables,
    { path: "code", label: "code", kind: "python" },
    { path: "", label: "code", kind: "codeGenerator" },
    { path: "outputs", label: "outputs", kind: "outputs" },
  ],
  "template-transform": [variables, { path: "template", label: "template", kind: "area" }],
  "if-else": [
    {
      path: "cases",
      label: "cases",
      kind: "list",
      fresh: { case_id: "", logical_operator: "and", conditions: [] },
      of: [
        { path: "logical_operator", label: "allOrAny", kind: "select", options: ["and", "or"] },
        { path: "conditions", label: "conditions", kind: "conditions" },
      ],
    },
  ],
  "question-classifier": [
    { path: "query_variable_selector", label: "question", kind: "selector" },
    { path: "model", label: "model", kind: "model" },
    {
      path: "classes",
      label: "classes",
      kind: "list",
      fresh: { id: "", name: "" },
      of: [{ path: "name", label: "name", kind: "text" }],
    },
    { path: "instruction", label: "instruction", kind: "template" },
    ...memory,
  ],
  "parameter-extractor": [
    { path: "query", label: "text", kind: "selector" },
    { path: "model", label: "model", kind: "model" },
    {
      path: "parameters",
      label: "parameters",
      kind: "list",
      fresh: { name: "", type: "string", description: "", required: true },
      of: [
        { path: "name", label: "name", kind: "text" },
        { path: "type", label: "type", kind: "select", options: [...VALUE_TYPES, "select"] },
        { path: "description", label: "description", kind: "text" },
        { path: "required", label: "required", kind: "switch" },
      ],
    },
    { path: "instruction", label: "instruction", kind: "template" },
    { path: "reasoning_mode", label: "reasoningMode", kind: "select", options: ["prompt", "function_call"] },
  ],
  "http-request": [
    { path: "method", label: "method", kind: "select", options: ["get", "post", "put", "patch", "delete", "head"] },
    { path: "url", label: "url", kind: "template" },
    { path: "headers", label: "headers", kind: "template" },
    { path: "params", label: "params", kind: "template" },
    { path: "authorization.type", label: "authorization", kind: "select", options: ["no-auth", "api-key"] },
    {
      path: "authorization.config.type",
      label: "type",
      kind: "select",
      options: ["bearer", "basic", "custom"],
      when: (data) => (data.authorization as { type?: string } | undefined)?.type === "api-key",
    },
    {
      path: "authorization.config.api_key",
      label: "apiKey",
      kind: "text",
      when: (data) => (data.authorization as { type?: string } | undefined)?.type === "api-key",
    },
    {
      path: "body.type",
      label: "body",
      kind: "select",
      options: ["none", "json", "raw-text", "x-www-form-urlencoded", "form-data", "binary"],
    },
    {
      path: "body.data",
      label: "content",
      kind: "list",
      fresh: { key: "", type: "text", value: "" },
      of: [
        { path: "key", label: "name", kind: "text" },
        { path: "value", label: "value", kind: "template" },
      ],
      when: (data) => !["none", undefined].includes((data.body as { type?: string } | undefined)?.type),
    },
    { path: "ssl_verify", label: "sslVerify", kind: "switch", otherwise: true },
  ],
  "knowledge-retrieval": [
    { path: "query_variable_selector", label: "question", kind: "selector" },
    { path: "dataset_ids", label: "datasets", kind: "datasets" },
    { path: "multiple_retrieval_config.top_k", label: "topK", kind: "number" },
    { path: "multiple_retrieval_config.reranking_enable", label: "rerank", kind: "switch" },
  ],
  "variable-aggregator": [
    { path: "variables", label: "firstThatIs", kind: "selectors" },
    { path: "output_type", label: "type", kind: "select", options: VALUE_TYPES },
  ],
  "variable-assigner": [
    { path: "variables", label: "firstThatIs", kind: "selectors" },
    { path: "output_type", label: "type", kind: "select", options: VALUE_TYPES },
  ],
  assigner: [
    {
      path: "items",
      label: "items",
      kind: "list",
      fresh: { variable_selector: [], input_type: "variable", operation: "over-write", value: [] },
      of: [
        { path: "variable_selector", label: "variable", kind: "selector" },
        {
          path: "operation",
          label: "operation",
          kind: "select",
          options: [
            "over-write",
            "clear",
            "set",
            "append",
            "extend",
            "remove-first",
            "remove-last",
            "+=",
            "-=",
            "*=",
            "/=",
          ],
        },
        { path: "input_type", label: "from", kind: "select", options: ["variable", "constant"] },
        { path: "value", label: "value", kind: "selector", when: (data) => data.input_type === "variable" },
        { path: "value", label: "value", kind: "text", when: (data) => data.input_type !== "variable" },
      ],
    },
  ],
  iteration: [
    { path: "iterator_selector", label: "over", kind: "selector" },
    { path: "output_selector", label: "collects", kind: "selector" },
    { path: "is_parallel", label: "parallel", kind: "switch" },
    { path: "parallel_nums", label: "atOnce", kind: "number" },
    {
      path: "error_handle_mode",
      label: "onError",
      kind: "select",
      options: ["terminated", "continue-on-error", "remove-abnormal-output"],
    },
    { path: "flatten_output", label: "flatten", kind: "switch" },
  ],
  loop: [
    { path: "loop_count", label: "mostRounds", kind: "number" },
    { path: "break_conditions", label: "endsWhen", kind: "conditions" },
    { path: "logical_operator", label: "allOrAny", kind: "select", options: ["and", "or"] },
    {
      path: "loop_variables",
      label: "loopVariables",
      kind: "list",
      fresh: { label: "", var_type: "string", value_type: "constant", value: "" },
      of: [
        { path: "label", label: "name", kind: "text" },
        { path: "var_type", label: "type", kind: "select", options: VALUE_TYPES },
        { path: "value_type", label: "from", kind: "select", options: ["constant", "variable"] },
        { path: "value", label: "value", kind: "text", when: (data) => data.value_type !== "variable" },
        { path: "value", label: "value", kind: "selector", when: (data) => data.value_type === "variable" },
      ],
    },
  ],
  "list-operator": [
    { path: "variable", label: "list", kind: "selector" },
    { path: "filter_by.enabled", label: "filters", kind: "switch" },
    {
      path: "filter_by.conditions",
      label: "conditions",
      kind: "list",
      fresh: { key: "", comparison_operator: "contains", value: "" },
      of: [
        { path: "key", label: "attribute", kind: "text" },
        { path: "comparison_operator", label: "operation", kind: "select", options: OPERATORS },
        {
          path: "value",
          label: "value",
          kind: "template",
          when: (data) => !WITHOUT_VALUE.has(String(data.comparison_operator ?? "")),
        },
      ],
      when: (data) => !!(data.filter_by as { enabled?: boolean } | undefined)?.enabled,
    },
    { path: "extract_by.enabled", label: "takesOne", kind: "switch" },
    {
      path: "extract_by.serial",
      label: "whichOne",
      kind: "text",
      when: (data) => !!(data.extract_by as { enabled?: boolean } | undefined)?.enabled,
    },
    { path: "order_by.enabled", label: "sorts", kind: "switch" },
    { path: "order_by.key", label: "sortKey", kind: "text" },
    { path: "order_by.value", label: "sortOrder", kind: "select", options: ["asc", "desc"] },
    { path: "limit.enabled", label: "limits", kind: "switch" },
    { path: "limit.size", label: "size", kind: "number" },
  ],
  "document-extractor": [
    { path: "variable_selector", label: "files", kind: "selector" },
    { path: "is_array_file", label: "severalFiles", kind: "switch" },
  ],
  tool: [
    { path: "", label: "tool", kind: "tool" },
    { path: "tool_configurations", label: "configuration", kind: "json" },
  ],
  agent: [
    ...[{ path: "", label: "strategy", kind: "strategy" } as const, ...memory].map((spec) =>
      whenAlso(spec, isStrategy),
    ),
    ...AGENT_JOB_FIELDS.map((spec) => whenAlso(spec, isAgentJob)),
  ],
  "human-input": [
    { path: "form_content", label: "formContent", kind: "template" },
    {
      path: "inputs",
      label: "inputs",
      kind: "list",
      fresh: { type: "text_input", output_variable_name: "" },
      of: [
        { path: "output_variable_name", label: "name", kind: "text" },
        {
          path: "type",
          label: "type",
          kind: "select",
          options: ["text_input", "paragraph", "select", "file", "file-list"],
        },
      ],
    },
    {
      path: "user_actions",
      label: "actions",
      kind: "list",
      fresh: { id: "", title: "", button_style: "default" },
      of: [
        { path: "id", label: "id", kind: "text" },
        { path: "title", label: "title", kind: "text" },
        { path: "button_style", label: "style", kind: "select", options: ["primary", "default", "accent", "ghost"] },
      ],
    },
    { path: "timeout", label: "timeout", kind: "number" },
    { path: "timeout_unit", label: "unit", kind: "select", options: ["hour", "day"] },
    { path: "delivery_methods", label: "delivery", kind: "delivery" },
  ],
  datasource: [{ path: "", label: "source", kind: "datasource" }],
  "knowledge-index": [
    { path: "index_chunk_variable_selector", label: "text", kind: "selector" },
    {
      path: "chunk_structure",
      label: "structure",
      kind: "select",
      options: ["text_model", "hierarchical_model", "qa_model"],
    },
    { path: "indexing_technique", label: "technique", kind: "select", options: ["high_quality", "economy"] },
    { path: "embedding_model", label: "model", kind: "text" },
  ],
  "trigger-webhook": [
    { path: "", label: "address", kind: "address" },
    { path: "method", label: "method", kind: "select", options: ["GET", "POST", "PUT", "PATCH", "DELETE"] },
    {
      path: "content_type",
      label: "contentType",
      kind: "select",
      options: [
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "text/plain",
        "application/octet-stream",
      ],
    },
    parameters("headers"),
    parameters("params"),
    parameters("body"),
    { path: "async_mode", label: "answersAtOnce", kind: "switch" },
    { path: "timeout", label: "timeoutSeconds", kind: "number", when: (data) => data.async_mode === false },
    { path: "status_code", label: "statusCode", kind: "number" },
    { path: "response_body", label: "responseBody", kind: "area", when: (data) => data.async_mode !== false },
  ],
  "trigger-schedule": [{ path: "", label: "schedule", kind: "schedule" }],
  "trigger-plugin": [{ path: "", label: "event", kind: "event" }],
  "iteration-start": [],
  "loop-start": [],
  "loop-end": [],
};

export const MAY_FAIL = new Set([
  "llm",
  "http-request",
  "tool",
  "code",
  "agent",
  "parameter-extractor",
  "question-classifier",
  "document-extractor",
  "knowledge-retrieval",
]);
