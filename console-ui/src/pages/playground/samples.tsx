import { useState } from "react";
import { Copied, Pick } from "../../components/base";
import { useChosen } from "../../settings";

const quoted = (text: string) => text.replaceAll("'", "'\\''");

const python = (path: string, body: Record<string, unknown>) => {
  const call: Record<string, string> = {
    "/v1/chat/completions": "chat.completions.create",
    "/v1/embeddings": "embeddings.create",
    "/v1/audio/speech": "audio.speech.create",
    "/v1/moderations": "moderations.create",
  };
  const literal = (value: unknown): string =>
    JSON.stringify(value, null, 2)
      .replace(/\btrue\b/g, "True")
      .replace(/\bfalse\b/g, "False")
      .replace(/\bnull\b/g, "None");
  const head = `base = "${location.origin}/v1"\n`;
  if (call[path]) {
    const fields = Object.entries(body)
      .map(([name, value]) => `    ${name}=${literal(value).replaceAll("\n", "\n    ")},`)
      .join("\n");
    return `from openai import OpenAI\n\n${head}client = OpenAI(base_url=base, api_key="…")\nanswer = client.${call[path]}(\n${fields}\n)\nprint(answer)\n`;
  }
  return `import httpx\n\nanswer = httpx.post("${location.origin}${path}", json=${literal(body)}, headers={"Authorization": "Bearer …"})\nprint(answer.json())\n`;
};

const typescript = (path: string, body: Record<string, unknown>) =>
  `const answer = await fetch("${location.origin}${path}", {\n  method: "POST",\n  headers: { "content-type": "application/json", authorization: "Bearer …" },\n  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),\n});\nconsole.log(await answer.json());\n`;

const curl = (path: string, body: Record<string, unknown>) =>
  `curl ${location.origin}${path} -H 'content-type: application/json' -H 'authorization: Bearer …' \\\n  -d '${quoted(JSON.stringify(body))}'`;

// The same call, to take along.
export const Samples = ({ path, body }: { path: string; body: Record<string, unknown> }) => {
  const { t } = useChosen();
  const [language, setLanguage] = useState("curl");
  const text = (language === "python" ? python : language === "typescript" ? typescript : curl)(path, body);
  return (
    <details className="card">
      <summary>{t.sameCall}</summary>
      <div className="row">
        <Pick
          label={t.inLanguage}
          value={language}
          onChange={setLanguage}
          options={["curl", ["python", "Python"], ["typescript", "TypeScript"]]}
        />
        <Copied text={text} />
      </div>
      <pre tabIndex={0}>{text}</pre>
    </details>
  );
};
