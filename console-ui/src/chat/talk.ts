// All that an app's page knows and does; what of it is shown is React's. Each change makes a new state.
import { isAbort } from "../calls";
import { wrongIn } from "../components/base";
import { type Form, ready, type Uploaded } from "../components/inputs";
import { filled } from "../languages";
import { type AnswerEvent, api, type Rating, type Shape, type Site, type Source, type WaitingForm } from "./api";
import type { ChatWords } from "./messages";
import { play } from "./speech";

// Words are chosen where they are shown: they follow the language.
export type Words = (t: ChatWords) => string;

export interface Question {
  kind: "question";
  id: number;
  text: string;
  files: string[];
}
export interface Answer {
  kind: "answer";
  id: number;
  text: string;
  thought: string;
  steps: { id: string; text: string }[];
  sources: Source[];
  files: { url: string; type: string }[];
  // Questions that one may ask next.
  questions: string[];
  form: WaitingForm | null;
  wrong: Words | null;
  isBusy: boolean;
  // Whether it came to its end, so that it can be copied, rated, and so on.
  isWhole: boolean;
  message: string;
  rating: Rating;
}
export type Turn = Question | Answer;

export interface Attached extends Uploaded {
  name: string;
}
export interface State {
  about: { site: Site; mode: string; parameters: Shape<"AppParameters">; form: Form[] } | null;
  conversations: Shape<"ConversationShown">[];
  // Whether there were some when the page was opened.
  hasPast: boolean;
  conversation: string;
  turns: Turn[];
  // What the form before the first message holds, and whether it is to be filled in.
  values: Record<string, unknown>;
  isAsking: boolean;
  files: Attached[];
  status: Words;
  isRunning: boolean;
}

const nothing: Words = () => "";
const working: Words = (t) => t.working;
const CHATS = ["chat", "advanced-chat", "agent-chat", "agent"];
export const isChat = (state: State) => CHATS.includes(state.about?.mode ?? "");
export const isOn = (feature: Record<string, unknown> | undefined) => feature?.enabled === true;

let last = 0;
const newAnswer = (): Answer => ({
  kind: "answer",
  id: ++last,
  text: "",
  thought: "",
  steps: [],
  sources: [],
  files: [],
  questions: [],
  form: null,
  wrong: null,
  isBusy: true,
  isWhole: false,
  message: "",
  rating: null,
});

const thoughtOf = (event: AnswerEvent) =>
  [event.thought, event.tool && `→ ${event.tool} ${event.tool_input}`, event.observation].filter(Boolean).join("\n");

const withStep = (steps: Answer["steps"], id: string, text: string) => {
  if (!text) return steps;
  if (!steps.some((step) => step.id === id)) return [...steps, { id, text }];
  return steps.map((step) => (step.id === id ? { id, text } : step));
};

// What a workflow gave, as text.
const shown = (outputs: Record<string, unknown>): string => {
  const text = (value: unknown) =>
    typeof value === "string" ? value : `\`\`\`json\n${JSON.stringify(value, null, 2)}\n\`\`\``;
  const entries = Object.entries(outputs).filter(([name]) => !name.startsWith("__"));
  const [only] = entries;
  if (only && entries.length === 1) return text(only[1]);
  return entries.map(([name, value]) => `**${name}**\n\n${text(value)}`).join("\n\n");
};

// The form of an app comes as a list of {type: what is asked}.
const formOf = (controls: Record<string, unknown>[]): Form[] =>
  controls.flatMap((control) =>
    Object.entries(control).map(([type, about]) => {
      const known = about as Partial<Form> & { variable: string };
      return {
        ...known,
        type,
        label: known.label || known.variable,
        required: known.required === true,
        options: known.options ?? [],
      };
    }),
  );

// What was seen of an answer, to its end or to where it waits.
interface Seen {
  message: string;
  conversation: string;
  outputs: Record<string, unknown> | null;
  hasFailed: boolean;
  waiting: { form: WaitingForm; run: string } | null;
}
interface Filled {
  values: Record<string, unknown>;
  action: string;
}
type Ask = (signal: AbortSignal) => AsyncGenerator<AnswerEvent>;

export class Talk {
  #state: State = {
    about: null,
    conversations: [],
    hasPast: false,
    conversation: "",
    turns: [],
    values: {},
    isAsking: false,
    files: [],
    status: nothing,
    isRunning: false,
  };
  #listeners = new Set<() => void>();
  #frame = 0;
  #inputs: Record<string, unknown> = {};
  #task = "";
  #running: AbortController | null = null;
  #uploads = new Set<Promise<unknown>>();
  // Called with what somebody wrote in the form that a run waits for.
  #onFilled: ((written: Filled) => void) | null = null;
  #filledForms = new Set<string>();

  get state() {
    return this.#state;
  }
  snapshot = () => this.#shown;
  #shown = this.#state;

  subscribe = (listener: () => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  #show = () => {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#shown = this.#state;
    for (const listener of this.#listeners) listener();
  };
  #set(change: Partial<State>) {
    this.#state = { ...this.#state, ...change };
    this.#show();
  }
  // Pieces of an answer are drawn once a frame, however many came.
  #setSoon(change: Partial<State>) {
    this.#state = { ...this.#state, ...change };
    this.#frame ||= requestAnimationFrame(this.#show);
  }
  #changed(id: number, change: (before: Answer) => Partial<Answer>): Partial<State> {
    const turns = this.#state.turns.map((turn) =>
      turn.id === id && turn.kind === "answer" ? { ...turn, ...change(turn) } : turn,
    );
    return { turns };
  }
  #put(id: number, change: Partial<Answer>) {
    this.#set(this.#changed(id, () => change));
  }
  #answer(id: number): Answer | undefined {
    return this.#state.turns.find((turn): turn is Answer => turn.id === id && turn.kind === "answer");
  }

  say(status: Words) {
    this.#set({ status });
  }
  #fails = (error: unknown) => this.say((t) => wrongIn(t, error));

  // ---------------------------------------------------------------------------------------------- the beginning

  async begin(): Promise<void> {
    try {
      const [site, info, parameters] = await Promise.all([api.site(), api.info(), api.parameters()]);
      const form = formOf(parameters.user_input_form ?? []);
      this.#set({ about: { site, mode: info.mode, parameters, form }, isAsking: form.length > 0 });
    } catch (error) {
      return this.#fails(error);
    }
    if (!isChat(this.#state)) return;
    const named = location.hash.slice(1);
    if (named) await this.#open(named).catch(() => this.fresh());
    else this.#greet();
    await this.#list();
    this.#set({ hasPast: this.#state.conversations.length > 0 });
  }

  #greet() {
    const { opening_statement: text, suggested_questions } = this.#state.about!.parameters;
    const questions = (suggested_questions ?? []).filter(Boolean);
    if (!text && !questions.length) return;
    this.#set({ turns: [{ ...newAnswer(), text: text ?? "", questions, isBusy: false }] });
  }

  setValues = (change: (before: State["values"]) => State["values"]) =>
    this.#set({ values: change(this.#state.values) });

  // ---------------------------------------------------------------------------------------------- conversations

  #enter(conversation: string) {
    this.#set({ conversation });
    history.replaceState(null, "", conversation ? `#${conversation}` : location.pathname + location.search);
  }

  fresh() {
    this.#enter("");
    this.#inputs = {};
    this.#set({ turns: [], isAsking: this.#state.about!.form.length > 0, status: nothing });
    this.#greet();
  }

  async #open(conversation: string): Promise<void> {
    const messages = await api.messages(conversation);
    this.#enter(conversation);
    this.#inputs = messages.at(-1)?.inputs ?? {};
    this.#set({ isAsking: false, turns: messages.flatMap(turnsOf) });
  }

  open = (conversation: string) => this.#open(conversation).catch(this.#fails);

  // A list that cannot be had is empty; the talk goes on without it.
  async #list(): Promise<void> {
    this.#set({ conversations: await api.conversations().catch(() => []) });
  }

  async rename(conversation: string, name: string): Promise<void> {
    await api.rename(conversation, name).catch(this.#fails);
    await this.#list();
  }

  async erase(conversation: string): Promise<void> {
    await api.erase(conversation).catch(this.#fails);
    if (conversation === this.#state.conversation) this.fresh();
    await this.#list();
  }

  // ---------------------------------------------------------------------------------------------- files

  // What is sent waits for what is on its way. Undefined where it failed, which the status says.
  upload = (files: File[]): Promise<Uploaded[] | undefined> => {
    const upload = this.#upload(files);
    this.#uploads.add(upload);
    return upload.finally(() => this.#uploads.delete(upload));
  };
  async #upload(files: File[]): Promise<Uploaded[] | undefined> {
    try {
      const uploaded: Uploaded[] = [];
      for (const file of files) {
        this.say((t) => filled(t.uploading, { name: file.name }));
        uploaded.push(await api.upload(file));
      }
      this.say(nothing);
      return uploaded;
    } catch (error) {
      this.#fails(error);
      return undefined;
    }
  }

  async attach(files: File[]): Promise<void> {
    for (const file of files) {
      const [uploaded] = (await this.upload([file])) ?? [];
      if (uploaded) this.#set({ files: [...this.#state.files, { ...uploaded, name: file.name }] });
    }
  }

  detach(file: Attached) {
    this.#set({ files: this.#state.files.filter((attached) => attached !== file) });
  }

  // What the form holds, with files that were still on their way.
  async #valuesOf(form: Form[]): Promise<Record<string, unknown>> {
    await Promise.all(this.#uploads);
    return ready(this.#state.values, form);
  }

  // ---------------------------------------------------------------------------------------------- runs

  // Whether it was answered; where it was not, `query` should be kept to be sent again.
  async send(query: string): Promise<boolean> {
    if (this.#running) return false;
    if (this.#state.isAsking) {
      this.#inputs = await this.#valuesOf(this.#state.about!.form);
      this.#set({ isAsking: false });
    }
    await Promise.all(this.#uploads);
    const { files, conversation, turns } = this.#state;
    const question: Question = { kind: "question", id: ++last, text: query, files: files.map((file) => file.name) };
    const earlier = turns.map((turn) => (turn.kind === "answer" ? { ...turn, questions: [] } : turn));
    this.#set({ turns: [...earlier, question], files: [] });
    const body = {
      query,
      inputs: this.#inputs,
      files: files.map(({ name: _, ...file }) => file),
      ...(conversation ? { conversation_id: conversation } : {}),
    };
    return this.#run((signal) => api.chat(body, signal));
  }

  // An app that is no chat: its form, and what comes of it.
  async run(): Promise<void> {
    if (this.#running) return;
    const { form, mode } = this.#state.about!;
    const inputs = await this.#valuesOf(form);
    const ask = mode === "completion" ? api.complete : api.run;
    await this.#run((signal) => ask(inputs, signal));
  }

  moreLike = (message: string) => {
    if (!this.#running) void this.#run((signal) => api.moreLike(message, signal));
  };

  async stop(): Promise<void> {
    const running = this.#running;
    if (!running) return;
    const { mode } = this.#state.about!;
    const end = isChat(this.#state) ? api.stopChat : mode === "completion" ? api.stopCompletion : api.stopRun;
    const isTold =
      this.#task !== "" &&
      (await end(this.#task).then(
        () => true,
        () => false,
      ));
    // Nothing more comes of a run that waits for a form, or that does not hear.
    if (!isTold || this.#onFilled) running.abort();
  }

  async #run(ask: Ask): Promise<boolean> {
    const controller = new AbortController();
    const answer = newAnswer();
    this.#running = controller;
    this.#task = "";
    this.#set({ turns: [...this.#state.turns, answer], isRunning: true, status: working });
    try {
      return await this.#answered(answer.id, ask, controller.signal);
    } catch (error) {
      if (!isAbort(error)) this.#put(answer.id, { wrong: (t) => wrongIn(t, error) });
      this.say(nothing);
      return false;
    } finally {
      this.#running = null;
      this.#onFilled = null;
      this.#set({ ...this.#changed(answer.id, () => ({ isBusy: false, form: null })), isRunning: false });
    }
  }

  async #answered(id: number, ask: Ask, signal: AbortSignal): Promise<boolean> {
    let seen = await this.#follow(id, ask(signal));
    while (seen.waiting && !seen.hasFailed) seen = await this.#fill(id, seen.waiting, signal);
    // Somebody may look at another conversation by now.
    if (seen.conversation && this.#answer(id)) this.#enter(seen.conversation);
    if (seen.hasFailed) {
      this.say(nothing);
      return true;
    }
    const text = this.#answer(id)?.text || (seen.outputs ? shown(seen.outputs) : "");
    this.#put(id, { text, isBusy: false, isWhole: true, message: seen.message });
    this.say((t) => t.done);
    if (isChat(this.#state)) void this.#after(id, seen.message);
    return true;
  }

  // The talk has moved on; nobody waits for these.
  async #after(id: number, message: string): Promise<void> {
    await this.#list();
    if (!message || !isOn(this.#state.about?.parameters.suggested_questions_after_answer)) return;
    const questions = (await api.suggested(message).catch(() => [])).filter(Boolean);
    if (!this.#running) this.#put(id, { questions });
  }

  async #follow(id: number, events: AsyncGenerator<AnswerEvent>): Promise<Seen> {
    const seen: Seen = { message: "", conversation: "", outputs: null, hasFailed: false, waiting: null };
    for await (const event of events) {
      seen.conversation = event.conversation_id ?? seen.conversation;
      this.#task = event.task_id ?? this.#task;
      const change = this.#heard(event, seen);
      if (change) this.#setSoon(this.#changed(id, change));
    }
    this.#show();
    return seen;
  }

  // What an event changes of the answer.
  #heard(event: AnswerEvent, seen: Seen): ((before: Answer) => Partial<Answer>) | null {
    const { data = {} } = event;
    switch (event.event) {
      case "message":
      case "agent_message":
        return ({ text }) => ({ text: text + (event.answer ?? "") });
      case "text_chunk":
        return ({ text }) => ({ text: text + (data.text ?? "") });
      case "message_replace":
        return () => ({ text: event.answer ?? "" });
      case "text_replace":
        return () => ({ text: data.text ?? "" });
      case "reasoning_chunk":
        return ({ thought }) => ({ thought: thought + (data.reasoning ?? "") });
      case "agent_thought":
        return ({ steps }) => ({ steps: withStep(steps, event.id ?? "", thoughtOf(event)) });
      case "agent_log":
        return ({ steps }) => ({ steps: withStep(steps, data.id ?? "", `${data.label}: ${data.status ?? ""}`) });
      case "node_started":
        this.say((t) => `${t.working} ${data.title ?? ""}`);
        return null;
      case "message_file":
        return ({ files }) => ({ files: [...files, { url: event.url ?? "", type: event.type ?? "" }] });
      case "human_input_required":
        if (!this.#filledForms.has(data.form_token ?? ""))
          seen.waiting ??= { form: data as WaitingForm, run: event.workflow_run_id ?? "" };
        return null;
      case "message_end":
        seen.message = event.message_id ?? "";
        return () => ({ sources: event.metadata?.retriever_resources ?? [] });
      case "workflow_finished":
        seen.outputs = data.outputs ?? null;
        if (data.status !== "failed") return null;
        seen.hasFailed = true;
        return isChat(this.#state) ? null : () => ({ wrong: () => data.error ?? "" });
      case "error":
        seen.hasFailed = true;
        return () => ({ wrong: () => event.message ?? "" });
      default:
        return null;
    }
  }

  // Somebody has to say something before the run can go on.
  async #fill(id: number, { form, run }: NonNullable<Seen["waiting"]>, signal: AbortSignal): Promise<Seen> {
    this.#put(id, { form });
    this.say((t) => t.waiting);
    for (;;) {
      const { values, action } = await this.#written(signal);
      await Promise.all(this.#uploads);
      try {
        await api.fill(form.form_token, values, action);
        break;
      } catch (error) {
        this.#fails(error);
      }
    }
    this.#onFilled = null;
    this.#filledForms.add(form.form_token);
    // The run is watched again from its beginning.
    this.#put(id, { form: null, text: "", thought: "", files: [] });
    this.say(working);
    return this.#follow(id, api.watch(run, signal));
  }

  #written(signal: AbortSignal): Promise<Filled> {
    return new Promise((done, failed) => {
      this.#onFilled = done;
      signal.addEventListener("abort", () => failed(signal.reason), { once: true });
    });
  }

  fill(written: Filled) {
    this.#onFilled?.(written);
  }

  // ---------------------------------------------------------------------------------------------- answers

  async rate(answer: Answer, rating: Rating): Promise<void> {
    this.#put(answer.id, { rating });
    await api.rate(answer.message, rating).catch((error: unknown) => {
      this.#put(answer.id, { rating: answer.rating });
      this.#fails(error);
    });
  }

  listen = (message: string) => api.speech(message).then(play).catch(this.#fails);

  // Said into the microphone; empty where it was not understood, which the status says.
  async heard(recording: Promise<Blob>): Promise<string> {
    this.say(working);
    try {
      const text = await api.transcribe(await recording);
      this.say(nothing);
      return text;
    } catch (error) {
      this.#fails(error);
      return "";
    }
  }

  fails(error: unknown) {
    this.#fails(error);
  }
}

const turnsOf = (message: Shape<"MessageShown">): Turn[] => {
  const files = message.message_files ?? [];
  const questionFiles = files.filter((file) => file.belongs_to !== "assistant");
  const answerFiles = files.filter((file) => file.belongs_to === "assistant");
  const thoughts = (message.agent_thoughts ?? []) as unknown as AnswerEvent[];
  const { error } = message;
  return [
    { kind: "question", id: ++last, text: message.query, files: questionFiles.map((file) => file.filename ?? "") },
    {
      ...newAnswer(),
      text: message.answer,
      steps: thoughts.reduce<Answer["steps"]>((steps, event) => withStep(steps, event.id ?? "", thoughtOf(event)), []),
      sources: (message.retriever_resources ?? []) as Source[],
      files: answerFiles.map((file) => ({ url: file.url ?? "", type: file.type ?? "" })),
      wrong: error ? () => error : null,
      isBusy: false,
      isWhole: !error,
      message: message.id,
      rating: (message.feedback?.rating as Rating | undefined) ?? null,
    },
  ];
};
