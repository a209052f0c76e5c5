// The forms of agents in a file, and of the tasks that nodes give them.
import type { FieldSpec } from "./fields";
import { asObject } from "./file";

const contacts = (path: string): FieldSpec => ({
  path,
  label: "contacts",
  kind: "list",
  fresh: { name: "", email: "", channel: "email" },
  of: [
    { path: "name", label: "name", kind: "text" },
    { path: "email", label: "email", kind: "text" },
    { path: "channel", label: "channel", kind: "select", options: ["email", "slack", "web_app", "chat"] },
  ],
});

const OUTPUT_TYPES = ["string", "number", "boolean", "object", "array", "file"];
const itemType = (data: Record<string, unknown>) => String(asObject(data.array_item).type ?? "object");
const isRetried = (data: Record<string, unknown>) => asObject(asObject(data.failure_strategy).retry).enabled === true;

const failureOfOutput: FieldSpec = {
  path: "",
  label: "ifItDoesNotFit",
  kind: "group",
  of: [
    { path: "failure_strategy.retry.enabled", label: "runsAgain", kind: "switch" },
    { path: "failure_strategy.retry.max_retries", label: "mostRetries", kind: "number", when: isRetried },
    { path: "failure_strategy.retry.retry_interval_ms", label: "msBetween", kind: "number", when: isRetried },
    {
      path: "failure_strategy.on_failure",
      label: "afterwards",
      kind: "select",
      options: ["stop", "default_value", "fail_branch"],
    },
    {
      path: "failure_strategy.default_value",
      label: "defaultValue",
      kind: "json",
      when: (data) => asObject(data.failure_strategy).on_failure === "default_value",
    },
  ],
};

// An output of a task, or a field of an object. `depth`: how many levels of fields the form has; the file may have more.
const declaredOutputs = (path: string, label: string, depth: number, isTop: boolean): FieldSpec => ({
  path,
  label,
  kind: "list",
  fresh: { name: "", type: "string", description: "", required: true },
  of: [
    { path: "name", label: "name", kind: "text" },
    { path: "type", label: "type", kind: "select", options: OUTPUT_TYPES },
    { path: "description", label: "description", kind: "text" },
    { path: "required", label: "required", kind: "switch", otherwise: true },
    {
      path: "array_item.type",
      label: "itemType",
      kind: "select",
      options: ["object", "string", "number", "boolean", "file"],
      when: (data) => data.type === "array",
    },
    ...(depth > 0
      ? [
          {
            ...declaredOutputs("array_item.children", "objectFields", depth - 1, false),
            when: (data: Record<string, unknown>) => data.type === "array" && itemType(data) === "object",
          },
          {
            ...declaredOutputs("children", "objectFields", depth - 1, false),
            when: (data: Record<string, unknown>) => data.type === "object",
          },
        ]
      : []),
    ...(isTop ? [failureOfOutput] : []),
  ],
});

// What can be set of an agent in a file; the rest of it is YAML.
export const PACKAGE_FIELDS: FieldSpec[] = [
  { path: "metadata.name", label: "name", kind: "text" },
  { path: "metadata.description", label: "description", kind: "text" },
  { path: "soul.prompt.system_prompt", label: "systemPrompt", kind: "area" },
  { path: "soul.model", label: "model", kind: "soulModel" },
  { path: "soul.tools.dify_tools", label: "tools", kind: "soulTools" },
  contacts("soul.human.contacts"),
];

// Of an agent that has a task: version 2 of the node.
export const AGENT_JOB_FIELDS: FieldSpec[] = [
  { path: "", label: "agent", kind: "agent" },
  {
    path: "agent_job.mode",
    label: "task",
    kind: "select",
    options: ["tell_agent_what_to_do", "let_agent_figure_it_out"],
  },
  {
    path: "agent_job.workflow_prompt",
    label: "taskPrompt",
    kind: "template",
    when: (data) => asObject(data.agent_job).mode !== "let_agent_figure_it_out",
  },
  { path: "agent_job.previous_node_output_refs", label: "earlierOutputs", kind: "outputReferences" },
  declaredOutputs("agent_job.declared_outputs", "outputs", 2, true),
  { path: "agent_job.declared_outputs", label: "answerSchema", kind: "outputsSchema" },
  contacts("agent_job.human_contacts"),
];
