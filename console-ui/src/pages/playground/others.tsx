import { useQuery } from "@tanstack/react-query";
import { useRef, useState } from "react";
import { api, fetchChecked } from "../../api";
import { useDo } from "../../components/actions";
import { Empty, Field, Pick } from "../../components/base";
import { ModelPick } from "../../components/models";
import { Table } from "../../components/table";
import { filled } from "../../messages";
import { useChosen, useKept } from "../../settings";
import { Samples } from "./samples";

const timed = async <T,>(work: () => Promise<T>) => {
  const began = performance.now();
  const value = await work();
  return { value, seconds: (performance.now() - began) / 1000 };
};

const Took = ({ seconds, tokens }: { seconds: number; tokens?: number | undefined }) => {
  const { t, span, number } = useChosen();
  return (
    <p className="soft small">
      {filled(t.allIn, { time: span(seconds) })}
      {tokens !== undefined && ` · ${number(tokens)} ${t.tokens}`}
    </p>
  );
};

const lines = (text: string) =>
  text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);

const cosine = (vector: number[], other: number[]) => {
  let dot = 0,
    a = 0,
    b = 0;
  vector.forEach((value, at) => {
    const otherValue = other[at] ?? 0;
    dot += value * otherValue;
    a += value * value;
    b += otherValue * otherValue;
  });
  return dot / (Math.sqrt(a * b) || 1);
};

export const Embed = () => {
  const { t, number } = useChosen();
  const [setup, set] = useKept("playground.embed", { model: "default-text-embedding", text: t.embedExample });
  const texts = lines(setup.text);
  const body = { model: setup.model, input: texts };
  const go = useDo(() =>
    timed(() =>
      api.post<{ data: { embedding: number[] }[]; usage: { prompt_tokens: number } }>("/v1/embeddings", "POST", body),
    ),
  );
  const vectors = go.data?.value.data.map((item) => item.embedding);
  return (
    <>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void go.run();
        }}
      >
        <ModelPick
          type="text-embedding"
          value={setup.model}
          onChange={(model) => set((before) => ({ ...before, model }))}
        />
        <Field label={t.textsToCompare} help={t.oneALine}>
          <textarea
            rows={5}
            value={setup.text}
            onChange={(event) => set((before) => ({ ...before, text: event.target.value }))}
          />
        </Field>
        <button className="primary" type="submit" disabled={go.isBusy || texts.length === 0}>
          {t.compare}
        </button>
      </form>
      {vectors && (
        <>
          <Table
            caption={t.likeness}
            rows={vectors.map((_, at) => at)}
            id={String}
            columns={[
              { title: filled(t.dimensions, { count: vectors[0]?.length ?? 0 }), cell: (at) => texts[at] },
              ...vectors.map((_, other) => ({
                title: String(other + 1),
                isNumber: true,
                cell: (at: number) => number(cosine(vectors[at]!, vectors[other]!), 3),
              })),
            ]}
          />
          <Took seconds={go.data!.seconds} tokens={go.data!.value.usage.prompt_tokens} />
        </>
      )}
      <Samples path="/v1/embeddings" body={body} />
    </>
  );
};

export const Rerank = () => {
  const { t, number } = useChosen();
  const [setup, set] = useKept("playground.rerank", {
    model: "default-rerank",
    query: t.rerankQuery,
    text: t.rerankExample,
  });
  const documents = lines(setup.text);
  const body = { model: setup.model, query: setup.query, documents };
  const go = useDo(() =>
    timed(() => api.post<{ results: { index: number; relevance_score: number }[] }>("/v1/rerank", "POST", body)),
  );
  return (
    <>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void go.run();
        }}
      >
        <ModelPick type="rerank" value={setup.model} onChange={(model) => set((before) => ({ ...before, model }))} />
        <Field label={t.question}>
          <input
            value={setup.query}
            required
            onChange={(event) => set((before) => ({ ...before, query: event.target.value }))}
          />
        </Field>
        <Field label={t.documents} help={t.oneALine}>
          <textarea
            rows={5}
            value={setup.text}
            onChange={(event) => set((before) => ({ ...before, text: event.target.value }))}
          />
        </Field>
        <button className="primary" type="submit" disabled={go.isBusy || !documents.length}>
          {t.sort}
        </button>
      </form>
      {go.data && (
        <>
          <Table
            caption={t.sorted}
            rows={go.data.value.results}
            id={(row) => String(row.index)}
            columns={[
              { title: t.document, cell: (row) => documents[row.index] },
              { title: t.score, cell: (row) => number(row.relevance_score, 4), isNumber: true },
            ]}
          />
          <Took seconds={go.data.seconds} />
        </>
      )}
      <Samples path="/v1/rerank" body={body} />
    </>
  );
};

export const Moderate = () => {
  const { t, number } = useChosen();
  const [setup, set] = useKept("playground.moderate", { model: "default-moderation", text: t.moderateExample });
  const texts = lines(setup.text);
  const body = { model: setup.model, input: texts };
  const go = useDo(() =>
    timed(() =>
      api.post<{ results: { flagged: boolean; category_scores: Record<string, number> }[] }>(
        "/v1/moderations",
        "POST",
        body,
      ),
    ),
  );
  return (
    <>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void go.run();
        }}
      >
        <ModelPick
          type="moderation"
          value={setup.model}
          onChange={(model) => set((before) => ({ ...before, model }))}
        />
        <Field label={t.texts} help={t.oneALine}>
          <textarea
            rows={4}
            value={setup.text}
            onChange={(event) => set((before) => ({ ...before, text: event.target.value }))}
          />
        </Field>
        <button className="primary" type="submit" disabled={go.isBusy || !texts.length}>
          {t.moderate}
        </button>
      </form>
      {go.data && (
        <>
          <Table
            caption={t.verdicts}
            rows={go.data.value.results.map((result, at) => ({ ...result, at }))}
            id={(row) => String(row.at)}
            columns={[
              { title: t.text, cell: (row) => texts[row.at] },
              {
                title: t.verdict,
                cell: (row) => (
                  <span className={`status ${row.flagged ? "bad" : "good"}`}>
                    {row.flagged ? t.flagged : t.notFlagged}
                  </span>
                ),
              },
              {
                title: t.highest,
                cell: (row) =>
                  Object.entries(row.category_scores)
                    .sort((a, b) => b[1] - a[1])
                    .slice(0, 3)
                    .map(([name, score]) => `${name} ${number(score, 3)}`)
                    .join(", "),
              },
            ]}
          />
          <Took seconds={go.data.seconds} />
        </>
      )}
      <Samples path="/v1/moderations" body={body} />
    </>
  );
};

export const Speak = () => {
  const { t } = useChosen();
  const [setup, set] = useKept("playground.speak", { model: "default-tts", voice: "default", text: t.speakExample });
  const models = useQuery({
    queryKey: ["catalogue", "tts"],
    queryFn: () => api.catalogue({ type: "tts", ready: true }),
    staleTime: 30_000,
  });
  const voices = (models.data?.find((model) => model.id === setup.model) ?? models.data?.[0])?.voices ?? [];
  const body = { model: setup.model, voice: setup.voice, input: setup.text, response_format: "wav" };
  const go = useDo(() =>
    timed(async () => {
      const answer = await fetchChecked("/v1/audio/speech", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
      });
      return URL.createObjectURL(await answer.blob());
    }),
  );
  return (
    <>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          void go.run();
        }}
      >
        <ModelPick type="tts" value={setup.model} onChange={(model) => set((before) => ({ ...before, model }))} />
        <Pick
          label={t.voice}
          value={setup.voice}
          onChange={(voice) => set((before) => ({ ...before, voice }))}
          options={["default", ...voices]}
        />
        <Field label={t.text}>
          <textarea
            rows={3}
            value={setup.text}
            required
            onChange={(event) => set((before) => ({ ...before, text: event.target.value }))}
          />
        </Field>
        <button className="primary" type="submit" disabled={go.isBusy}>
          {t.speak}
        </button>
      </form>
      {go.data && (
        <>
          <audio controls src={go.data.value} aria-label={t.spoken} />
          <Took seconds={go.data.seconds} />
        </>
      )}
      <Samples path="/v1/audio/speech" body={body} />
    </>
  );
};

export const Transcribe = () => {
  const { t } = useChosen();
  const [model, setModel] = useKept("playground.transcribe", "default-speech2text");
  const [file, setFile] = useState<File | null>(null);
  const [isRecording, setRecording] = useState(false);
  const recorder = useRef<MediaRecorder | null>(null);
  const go = useDo((audio: File) =>
    timed(async () => {
      const form = new FormData();
      form.append("file", audio);
      form.append("model", model);
      return (
        (await (await fetchChecked("/v1/audio/transcriptions", { method: "POST", body: form })).json()) as {
          text: string;
        }
      ).text;
    }),
  );
  const record = useDo(async () => {
    if (isRecording) return recorder.current?.stop();
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true }).catch(() => {
      throw new Error(t.noMicrophone);
    });
    const pieces: Blob[] = [];
    const newRecorder = new MediaRecorder(stream);
    recorder.current = newRecorder;
    newRecorder.ondataavailable = (event) => pieces.push(event.data);
    newRecorder.onstop = () => {
      for (const track of stream.getTracks()) track.stop();
      setRecording(false);
      setFile(new File(pieces, "recording.webm", { type: newRecorder.mimeType }));
    };
    newRecorder.start();
    setRecording(true);
  });
  return (
    <>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          if (file) void go.run(file);
        }}
      >
        <ModelPick type="speech2text" value={model} onChange={setModel} />
        <Field label={t.audioFile}>
          <input
            type="file"
            accept="audio/*,video/webm"
            onChange={(event) => setFile(event.target.files?.[0] ?? null)}
          />
        </Field>
        <div className="row">
          <button type="button" aria-pressed={isRecording} onClick={() => void record.run()}>
            {isRecording ? t.stopRecording : t.record}
          </button>
          {file && <span className="soft">{file.name}</span>}
          <button className="primary" type="submit" disabled={!file || go.isBusy}>
            {t.transcribe}
          </button>
        </div>
      </form>
      {go.data ? (
        <>
          <blockquote>{go.data.value || t.nothingHeard}</blockquote>
          <Took seconds={go.data.seconds} />
        </>
      ) : (
        <Empty title={t.transcribeHint} />
      )}
    </>
  );
};
