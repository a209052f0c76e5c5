// The form of an app with one prompt: a chat, an agent with tools, or a form.
import { useQuery } from "@tanstack/react-query";
import { isMap } from "yaml";
import { api, type Shape } from "../api";
import { Field, Json, Pick as PickOne } from "../components/base";
import { Generator } from "../components/generator";
import { ModelPick } from "../components/models";
import { type OfferedTool, useTools } from "../components/tools";
import { useChosen } from "../settings";
import { yamlDocument } from "../yaml";

interface AgentTool {
  provider_id: string;
  tool_name: string;
  enabled?: boolean;
}
// The settings of an app with one prompt, at their paths in its file. Everything else in the file stays.
interface PromptApp {
  mode: string;
  // A value as it is in the file, or what stands in for it.
  read: <T>(path: string[], otherwise: T) => T;
  put: (path: string[], value: unknown) => void;
  // Several values at once.
  putAll: (values: [path: string[], value: unknown][]) => void;
}

export const promptApp = (mode: string, text: string, onChange: (text: string) => void): PromptApp | null => {
  const document = yamlDocument(text);
  if (document.errors.length || !isMap(document.contents)) return null;
  return {
    mode,
    read: <T,>(path: string[], otherwise: T): T => {
      const value = document.getIn(["model_config", ...path]);
      return value && typeof value === "object" && "toJSON" in value
        ? (value as { toJSON: () => T }).toJSON()
        : ((value as T | null | undefined) ?? otherwise);
    },
    put: (path, value) => onChange(withValues(text, [[path, value]])),
    putAll: (values) => onChange(withValues(text, values)),
  };
};

const withValues = (text: string, values: [path: string[], value: unknown][]): string => {
  const next = yamlDocument(text);
  for (const [path, value] of values) next.setIn(["model_config", ...path], next.createNode(value));
  return next.toString({ lineWidth: 0 });
};

export const SimpleForm = ({
  mode,
  text,
  onChange,
}: {
  mode: string;
  text: string;
  onChange: (text: string) => void;
}) => {
  const { t } = useChosen();
  const app = promptApp(mode, text, onChange);
  if (!app) return null;
  return (
    <div className="form">
      <PromptModel app={app} />
      <TextSetting app={app} path="pre_prompt" label={t.fields.prompt} rows={4} />
      <Generator
        label={t.generatePrompt}
        current={app.read(["pre_prompt"], "")}
        generate={api.generatePrompt}
        show={(draft) => <Json value={draft.prompt} />}
        onUse={(draft) => app.putAll(generatedSettings(app, draft))}
      />
      {mode !== "completion" && (
        <>
          <TextSetting app={app} path="opening_statement" label={t.openingStatement} rows={2} />
          <Field label={t.suggestedQuestions} help={t.oneALine}>
            <textarea
              rows={2}
              value={app.read<string[]>(["suggested_questions"], []).join("\n")}
              onChange={(event) => app.put(["suggested_questions"], event.target.value.split("\n"))}
            />
          </Field>
        </>
      )}
      {mode === "agent-chat" ? <AgentSettings app={app} /> : <DatasetSettings app={app} />}
    </div>
  );
};

type FormControl = Record<string, { variable?: string }>;

// A generated prompt with what it needs: a field of the form for each new variable, and for a chat without one an
// opening message.
export const generatedSettings = (
  app: Pick<PromptApp, "mode" | "read">,
  draft: Shape<"GeneratedPromptView">,
): [path: string[], value: unknown][] => {
  const form = app.read<FormControl[]>(["user_input_form"], []);
  const known = form.flatMap((control) => Object.values(control).map(({ variable }) => variable));
  const added = draft.variables
    .filter((variable) => !known.includes(variable))
    .map((variable) => ({ paragraph: { label: variable, variable, required: true, default: "" } }));
  const opens = app.mode !== "completion" && !app.read(["opening_statement"], "") && draft.opening_statement;
  return [
    [["pre_prompt"], draft.prompt],
    ...(added.length ? [[["user_input_form"], [...form, ...added]] as [string[], unknown]] : []),
    ...(opens ? [[["opening_statement"], draft.opening_statement] as [string[], unknown]] : []),
  ];
};

const PromptModel = ({ app }: { app: PromptApp }) => {
  const model = app.read<{ provider?: string; name?: string }>(["model"], {});
  const providerName = (model.provider ?? "").split("/").at(-1) ?? "";
  const onChange = (id: string) => {
    const [provider, ...name] = id.split("/");
    const reference = name.length ? { provider, name: name.join("/") } : { provider: "", name: id };
    app.put(["model"], { ...model, ...reference, mode: "chat" });
  };
  return (
    <ModelPick
      type="llm"
      value={providerName && model.name ? `${providerName}/${model.name}` : (model.name ?? "default")}
      onChange={onChange}
    />
  );
};

const TextSetting = ({ app, path, label, rows }: { app: PromptApp; path: string; label: string; rows: number }) => (
  <Field label={label}>
    <textarea
      rows={rows}
      value={String(app.read<unknown>([path], ""))}
      onChange={(event) => app.put([path], event.target.value)}
    />
  </Field>
);

const TOOL_KINDS = ["builtin", "plugin", "workflow", "api", "mcp"];

const toolReference = ({ kind, provider, name }: OfferedTool) => ({
  enabled: true,
  provider_id: provider,
  provider_name: provider,
  provider_type: kind === "plugin" ? "builtin" : kind,
  tool_name: name,
  tool_label: name,
  tool_parameters: {},
});

const AgentSettings = ({ app }: { app: PromptApp }) => {
  const { t } = useChosen();
  const tools = useTools();
  const selected = app.read<AgentTool[]>(["agent_mode", "tools"], []);
  const isReference = (reference: AgentTool, tool: OfferedTool) =>
    reference.tool_name === tool.name && reference.provider_id === tool.provider;
  const select = (tool: OfferedTool, is: boolean) => {
    const others = selected.filter((reference) => !isReference(reference, tool));
    app.put(["agent_mode", "tools"], is ? [...selected, toolReference(tool)] : others);
  };
  return (
    <>
      <PickOne
        label={t.agentStrategy}
        value={String(app.read<unknown>(["agent_mode", "strategy"], "function_call"))}
        onChange={(strategy) => app.put(["agent_mode", "strategy"], strategy)}
        options={["function_call", "react"]}
      />
      <fieldset>
        <legend>{t.mayUse}</legend>
        <div className="fields">
          {(tools.data ?? [])
            .filter((tool) => TOOL_KINDS.includes(tool.kind))
            .map((tool) => (
              <label className="check" key={`${tool.provider} ${tool.name}`} title={tool.description}>
                <input
                  type="checkbox"
                  checked={selected.some((reference) => isReference(reference, tool))}
                  onChange={(event) => select(tool, event.target.checked)}
                />{" "}
                {tool.provider}/{tool.name}
              </label>
            ))}
        </div>
      </fieldset>
    </>
  );
};

interface DatasetReference {
  dataset: { id: string; enabled?: boolean };
}

const DatasetSettings = ({ app }: { app: PromptApp }) => {
  const { t } = useChosen();
  const datasets = useQuery({ queryKey: ["datasets"], queryFn: api.datasets, staleTime: 60_000 });
  const selected = app.read<DatasetReference[]>(["dataset_configs", "datasets", "datasets"], []);
  const select = (id: string, is: boolean) => {
    const others = selected.filter((reference) => reference.dataset.id !== id);
    app.put(["dataset_configs"], {
      retrieval_model: "multiple",
      top_k: 4,
      ...app.read<Record<string, unknown>>(["dataset_configs"], {}),
      datasets: { datasets: is ? [...selected, { dataset: { id, enabled: true } }] : others },
    });
  };
  if (!datasets.data?.length) return null;
  return (
    <fieldset>
      <legend>{t.mayRead}</legend>
      {datasets.data.map(({ id, name }) => (
        <label className="check" key={id}>
          <input
            type="checkbox"
            checked={selected.some((reference) => reference.dataset.id === id)}
            onChange={(event) => select(id, event.target.checked)}
          />{" "}
          {name}
        </label>
      ))}
    </fieldset>
  );
};
