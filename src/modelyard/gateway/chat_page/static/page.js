// The page on which people use one published app. It knows no key: the address names the app, and a number that this
// browser made names its user.

import { markdown } from "./markdown.js";
import { WORDS } from "./words.js";

const $ = (id) => document.getElementById(id);
const token = location.pathname.split("/")[2];
const base = `/chat/${token}/v1`;

// ------------------------------------------------------------------------------------------------ what is remembered

const kept = {
  get(name) {
    try {
      return localStorage.getItem(name);
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(name, value);
    } catch {
      // a browser that keeps nothing: the page works until it is closed
    }
  },
};

const made = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (one) => one.toString(16).padStart(2, "0")).join("");
const visitor = kept.get("modelyard.visitor") ?? made();
kept.set("modelyard.visitor", visitor);

const state = { mode: "", parameters: {}, conversation: "", inputs: {}, files: [], task: "", running: null, language: "en" };
const isChat = () => ["chat", "advanced-chat", "agent-chat"].includes(state.mode);

// ------------------------------------------------------------------------------------------------ words

const say = (name) => WORDS[state.language][name] ?? name;

const setLanguage = (language) => {
  state.language = language in WORDS ? language : "en";
  document.documentElement.lang = state.language === "zh" ? "zh-Hans" : "en";
  $("language").value = state.language;
  kept.set("modelyard.language", state.language);
  for (const one of document.querySelectorAll("[data-text]")) one.textContent = say(one.dataset.text);
  for (const one of document.querySelectorAll("[data-label]")) one.setAttribute("aria-label", say(one.dataset.label));
  for (const [id, name] of [["menu", "menu"], ["attach", "attach"], ["speak", "speak"], ["aside", "conversations"]]) {
    $(id).setAttribute("aria-label", say(name));
  }
  $("fresh").textContent = say("fresh");
  $("ask").placeholder = say("ask");
  $("log").setAttribute("aria-label", say("conversations"));
  setRunning(state.running);
};

// A stored picture, fetched without anything that says who asks.
const stored = async (address) => {
  const answer = await fetch(address, { credentials: "omit", redirect: "error", referrerPolicy: "no-referrer" });
  const data = await answer.blob();
  if (!answer.ok || !/^image\/(?!svg)/.test(data.type)) throw new Error("no picture");
  const image = make("img", { class: "image", src: URL.createObjectURL(data), alt: "" });
  image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
  return image;
};

const make = (name, attributes = {}, ...children) => {
  const one = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") one.className = value;
    else if (key.startsWith("on")) one.addEventListener(key.slice(2), value);
    else if (value !== false && value !== undefined) one.setAttribute(key, value === true ? "" : value);
  }
  one.append(...children.filter((child) => child !== null && child !== undefined));
  return one;
};

const button = (name, act, attributes = {}) =>
  make("button", { type: "button", "data-text": name, onclick: act, ...attributes }, say(name));

const tell = (text) => {
  $("status").textContent = text;
};

// ------------------------------------------------------------------------------------------------ calls

class Refused extends Error {}

const call = async (path, { method = "GET", body, form, signal } = {}) => {
  const headers = { "x-visitor": visitor };
  if (body) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(base + path, { method, headers, body: form ?? (body && JSON.stringify(body)), signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refused(say("lost"));
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Refused(told.message ?? `${answer.status}`);
  }
  return answer;
};

const json = async (path, how) => (await call(path, how)).json();

async function* events(path, body, signal, method = "POST") {
  const answer = await call(path, { method, body, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
  }
}

// ------------------------------------------------------------------------------------------------ forms

const KINDS = { "text-input": "text", number: "number", checkbox: "checkbox", file: "file", "file-list": "file" };

const field = (control) => {
  const [[type, about]] = Object.entries(control);
  const name = about.variable;
  const id = `in-${name}`;
  const shared = { id, name, "data-type": type, required: Boolean(about.required) };
  let input;
  if (type === "select") {
    const options = (about.options ?? []).map((one) => make("option", { value: one }, one));
    input = make("select", shared, ...(about.required && about.default ? [] : [make("option", { value: "" }, "")]), ...options);
  } else if (type === "paragraph" || type === "json_object") {
    input = make("textarea", { ...shared, rows: 4, maxlength: about.max_length || false });
  } else {
    input = make("input", {
      ...shared, type: KINDS[type] ?? "text", maxlength: type === "text-input" && about.max_length ? about.max_length : false,
      multiple: type === "file-list", step: type === "number" ? "any" : false,
    });
  }
  if (type === "checkbox") input.checked = about.default === true || about.default === "true";
  else if (about.default !== undefined && about.default !== null && KINDS[type] !== "file") input.value = about.default;
  const label = make("label", { for: id }, about.label || name, about.required ? " *" : "");
  return make("div", { class: "field" }, label, input, about.hint ? make("small", {}, about.hint) : null);
};

const kindOf = (file) => {
  const [family] = (file.type || "").split("/");
  return ["image", "audio", "video"].includes(family) ? family : "document";
};

const uploaded = async (file) => {
  const form = new FormData();
  form.append("file", file);
  tell(`${say("uploading")}: ${file.name}`);
  const told = await json("/files/upload", { method: "POST", form });
  tell("");
  return { type: kindOf(file), transfer_method: "local_file", upload_file_id: told.id, name: file.name };
};

const valueOf = async (input) => {
  switch (input.dataset.type) {
    case "checkbox":
      return input.checked;
    case "number":
      if (input.value.trim() && Number.isNaN(Number(input.value))) throw new Refused(say("number"));
      return input.value.trim() ? Number(input.value) : undefined;
    case "json_object":
      if (!input.value.trim()) return undefined;
      try {
        return JSON.parse(input.value);
      } catch {
        throw new Refused(say("json"));
      }
    case "file":
      return input.files.length ? uploaded(input.files[0]) : undefined;
    case "file-list":
      return input.files.length ? Promise.all([...input.files].map(uploaded)) : undefined;
    default:
      return input.value === "" ? undefined : input.value;
  }
};

const valuesOf = async (form) => {
  const found = {};
  for (const input of form.querySelectorAll("[data-type]")) {
    try {
      const value = await valueOf(input);
      if (value === undefined && input.required) throw new Refused(say("required"));
      if (value !== undefined) found[input.name] = value;
    } catch (error) {
      input.setCustomValidity(error.message);
      input.reportValidity();
      input.addEventListener("input", () => input.setCustomValidity(""), { once: true });
      throw error;
    }
  }
  return found;
};

// ------------------------------------------------------------------------------------------------ turns

const atEnd = () => {
  const place = $("scroll");
  return place.scrollHeight - place.scrollTop - place.clientHeight < 120;
};
const toEnd = () => {
  $("scroll").scrollTop = $("scroll").scrollHeight;
};

const asked = (text, files = []) => {
  const said = make("div", { class: "said" }, make("span", { class: "hidden", "data-text": "you" }, `${say("you")}: `), text);
  for (const one of files) said.append(make("div", {}, `📎 ${one.name ?? one.filename ?? ""}`));
  $("log").append(make("div", { class: "turn user" }, said));
  toEnd();
};

class Turn {
  constructor() {
    this.text = "";
    this.thought = "";
    this.steps = new Map();
    this.said = make("div", { class: "said busy" });
    this.beside = make("div");
    this.element = make("article", { class: "turn", "aria-label": say("said") }, this.beside, this.said);
    $("log").append(this.element);
    this.drawn = 0;
  }

  draw() {
    const follows = atEnd();
    this.said.replaceChildren(markdown(this.text));
    this.drawn = 0;
    if (follows) toEnd();
  }

  add(piece) {
    this.text += piece;
    this.drawn ||= requestAnimationFrame(() => this.draw());
  }

  replace(text) {
    this.text = text;
    this.draw();
  }

  think(piece) {
    if (!this.thoughts) {
      this.thoughts = make("div");
      this.beside.append(make("details", {}, make("summary", { "data-text": "thinking" }, say("thinking")), this.thoughts));
    }
    this.thoughts.append(piece);
  }

  step(id, text) {
    if (!text) return;
    if (!this.list) {
      this.list = make("div");
      this.beside.append(make("details", {}, make("summary", { "data-text": "steps" }, say("steps")), this.list));
    }
    if (!this.steps.has(id)) {
      this.steps.set(id, make("p"));
      this.list.append(this.steps.get(id));
    }
    this.steps.get(id).textContent = text;
  }

  cite(resources) {
    if (!resources?.length) return;
    const items = resources.map((one) =>
      make("li", { title: (one.content ?? "").slice(0, 400) }, `${one.document_name ?? one.title ?? ""}`));
    this.element.append(make("p", { class: "hidden", "data-text": "sources" }, say("sources")), make("ol", { class: "cites" }, ...items));
  }

  picture(url, type) {
    const target = new URL(url, location.href);
    if (!["http:", "https:"].includes(target.protocol)) return;
    const link = make("p", {}, make("a", { href: target.href, target: "_blank", rel: "noopener noreferrer" }, `📎 ${target.pathname.split("/").pop()}`));
    this.element.append(link);
    // Stored files of this server are shown; whatever else an address names is asked for by whoever follows it.
    const isFile = target.origin === location.origin && target.pathname.startsWith("/files/");
    if (type === "image" && isFile) stored(target.href).then((image) => link.replaceWith(image), () => {});
  }

  wrong(message) {
    this.end();
    this.element.append(make("p", { class: "wrong", role: "alert" }, `${say("failed")}: ${message}`));
  }

  end() {
    if (this.drawn) cancelAnimationFrame(this.drawn);
    this.draw();
    this.said.classList.remove("busy");
  }

  finish(message, rating) {
    this.end();
    const tools = make("div", { class: "tools" });
    tools.append(button("copy", async (event) => {
      await navigator.clipboard.writeText(this.text);
      event.target.textContent = say("copied");
    }));
    if (message) this.rated(tools, message, rating);
    if (message && state.parameters.text_to_speech?.enabled) tools.append(button("listen", () => listen(message)));
    if (message && state.mode === "completion" && state.parameters.more_like_this?.enabled) {
      tools.append(button("more", () => start(`/messages/${message}/more-like-this`, {})));
    }
    this.element.append(tools);
  }

  rated(tools, message, rating) {
    let now = rating ?? null;
    const both = ["like", "dislike"].map((word) => {
      const one = button(word === "like" ? "good" : "bad", async () => {
        now = now === word ? null : word;
        await json(`/messages/${message}/feedbacks`, { method: "POST", body: { rating: now } }).catch((error) => tell(error.message));
        for (const [at, each] of both.entries()) each.setAttribute("aria-pressed", String(now === ["like", "dislike"][at]));
      });
      one.setAttribute("aria-pressed", String(now === word));
      return one;
    });
    tools.append(...both);
  }
}

const listen = async (message) => {
  try {
    const answer = await call("/text-to-audio", { method: "POST", body: { message_id: message } });
    const audio = new Audio(URL.createObjectURL(await answer.blob()));
    audio.addEventListener("ended", () => URL.revokeObjectURL(audio.src));
    await audio.play();
  } catch (error) {
    tell(error.message);
  }
};

// ------------------------------------------------------------------------------------------------ runs

const setRunning = (controller) => {
  state.running = controller;
  const name = controller ? "stop" : "send";
  $("send").setAttribute("aria-label", say(name));
  $("send").title = say(name);
  $("send").querySelector("path").setAttribute("d", controller ? "M7 7h10v10H7z" : "M5 12h14M13 6l6 6-6 6");
  for (const one of document.querySelectorAll("#inputs button")) one.disabled = Boolean(controller);
};

const stop = async () => {
  const running = state.running;
  if (!running) return;
  const place = isChat() ? "chat-messages" : state.mode === "completion" ? "completion-messages" : "workflows/tasks";
  if (state.task) await json(`/${place}/${state.task}/stop`, { method: "POST", body: {} }).catch(() => null);
  else running.abort();
};

const filled = new Set();

const told = (turn, one, seen) => {
  state.task = one.task_id ?? state.task;
  switch (one.event) {
    case "message":
    case "agent_message":
      return turn.add(one.answer);
    case "text_chunk":
      return turn.add(one.data.text);
    case "message_replace":
      return turn.replace(one.answer);
    case "reasoning_chunk":
      return turn.think(one.data.reasoning);
    case "agent_thought":
      return turn.step(one.id, [one.thought, one.tool && `→ ${one.tool} ${one.tool_input}`, one.observation].filter(Boolean).join("\n"));
    case "agent_log":
      return turn.step(one.data.id, `${one.data.label}: ${one.data.status ?? ""}`);
    case "node_started":
      return tell(`${say("working")} ${one.data.title}`);
    case "message_file":
      return turn.picture(one.url, one.type);
    case "human_input_required":
      return filled.has(one.data.form_token) ? null : seen.forms.push(one);
    case "message_end":
      seen.message = one.message_id;
      return turn.cite(one.metadata?.retriever_resources);
    case "workflow_finished":
      seen.outputs = one.data.outputs;
      if (one.data.status === "failed" && !isChat()) turn.wrong(one.data.error);
      seen.failed ||= one.data.status === "failed";
      return seen;
    case "error":
      seen.failed = true;
      return turn.wrong(one.message);
    default:
      return null;
  }
};

const follow = async (turn, stream) => {
  const seen = { message: "", outputs: null, failed: false, forms: [], conversation: "" };
  for await (const one of stream) {
    seen.conversation = one.conversation_id ?? seen.conversation;
    told(turn, one, seen);
  }
  return seen;
};

const start = async (path, body, what = null) => {
  const controller = new AbortController();
  state.task = "";
  setRunning(controller);
  tell(say("working"));
  const turn = new Turn();
  toEnd();
  try {
    let seen = await follow(turn, events(path, { ...body, response_mode: "streaming" }, controller.signal));
    while (seen.forms.length && !seen.failed) seen = await fill(turn, seen, controller.signal);
    if (seen.conversation && seen.conversation !== state.conversation) entered(seen.conversation);
    if (seen.failed) return turn.end();
    if (!turn.text && seen.outputs) turn.replace(shown(seen.outputs));
    if (!turn.text) turn.replace(say("none"));
    turn.finish(seen.message);
    tell(say("done"));
    if (isChat()) await after(turn, seen.message);
    return turn;
  } catch (error) {
    if (error.name === "AbortError") turn.end();
    else turn.wrong(error.message);
    what?.(error);
    return turn;
  } finally {
    setRunning(null);
    if ($("status").textContent.startsWith(say("working"))) tell("");
  }
};

const shown = (outputs) => {
  const entries = Object.entries(outputs).filter(([name]) => !name.startsWith("__"));
  const text = (value) => (typeof value === "string" ? value : `\`\`\`json\n${JSON.stringify(value, null, 2)}\n\`\`\``);
  return entries.length === 1 ? text(entries[0][1]) : entries.map(([name, value]) => `**${name}**\n\n${text(value)}`).join("\n\n");
};

// Somebody has to say something before the run can go on.
const fill = (turn, seen, signal) => {
  const one = seen.forms[0].data;
  const run = seen.forms[0].workflow_run_id;
  tell(say("waiting"));
  return new Promise((done, failed) => {
    const form = make("form", { class: "fill" });
    const content = make("div", { class: "said" });
    content.append(markdown((one.form_content ?? "").replace(/\{\{#\$output\.[^}]*#\}\}/g, "")));
    form.append(content);
    for (const input of one.inputs ?? []) {
      const preset = one.resolved_default_values?.[input.output_variable_name];
      form.append(field({ [input.type]: { variable: input.output_variable_name, label: input.output_variable_name, default: preset } }));
    }
    const row = make("div", { class: "tools" });
    for (const action of one.actions ?? []) {
      row.append(make("button", {
        type: "button", class: action.button_style === "primary" ? "primary" : "",
        onclick: async () => {
          try {
            const inputs = { ...Object.fromEntries((one.inputs ?? []).map((each) => [each.output_variable_name, ""])), ...(await valuesOf(form)) };
            await json(`/form/human_input/${one.form_token}`, { method: "POST", body: { inputs, action: action.id } });
            form.remove();
            filled.add(one.form_token);
            const path = `/workflow/${run}/events?after=0`;
            turn.replace("");
            done(await follow(turn, events(path, undefined, signal, "GET")));
          } catch (error) {
            if (!(error instanceof Refused)) failed(error);
            else tell(error.message);
          }
        },
      }, action.title || action.id));
    }
    form.append(row);
    turn.element.append(form);
    toEnd();
    form.querySelector("input, textarea, button")?.focus();
  });
};

const after = async (turn, message) => {
  listConversations();
  if (!message || !state.parameters.suggested_questions_after_answer?.enabled) return;
  const told = await json(`/messages/${message}/suggested`).catch(() => ({ data: [] }));
  suggest(told.data, turn.element);
};

const suggest = (questions, place) => {
  const some = (questions ?? []).filter(Boolean);
  if (!some.length) return;
  const follows = atEnd();
  place.append(make("div", { class: "chips" }, ...some.map((one) => make("button", { type: "button", onclick: () => send(one) }, one))));
  if (follows) toEnd();
};

// ------------------------------------------------------------------------------------------------ chats

const send = async (query) => {
  if (state.running) return;
  if (!state.conversation && !$("inputs").hidden) {
    try {
      state.inputs = await valuesOf($("inputs"));
    } catch (error) {
      return tell(error.message);
    }
    $("inputs").hidden = true;
  }
  const files = state.files.map(({ name, ...one }) => one);
  asked(query, state.files);
  setFiles([]);
  for (const one of document.querySelectorAll(".chips")) one.remove();
  const body = { query, inputs: state.inputs, files };
  if (state.conversation) body.conversation_id = state.conversation;
  await start("/chat-messages", body, () => {
    if (!$("ask").value) setAsk(query);
  });
  $("ask").focus();
};

const entered = (conversation) => {
  state.conversation = conversation;
  history.replaceState(null, "", conversation ? `#${conversation}` : location.pathname + location.search);
};

const fresh = () => {
  entered("");
  state.inputs = {};
  $("log").replaceChildren();
  $("inputs").hidden = !$("inputs").children.length;
  greet();
  mark();
  tell("");
};

const greet = () => {
  const { opening_statement: opening, suggested_questions: questions } = state.parameters;
  if (!isChat() || (!opening && !questions?.length)) return;
  const turn = new Turn();
  turn.replace(opening ?? "");
  turn.end();
  suggest(questions, turn.element);
};

const open = async (conversation) => {
  const { data } = await json(`/messages?conversation_id=${encodeURIComponent(conversation)}&limit=100`);
  entered(conversation);
  $("inputs").hidden = true;
  $("log").replaceChildren();
  for (const one of data) {
    state.inputs = one.inputs ?? {};
    asked(one.query, one.message_files ?? []);
    const turn = new Turn();
    for (const each of one.agent_thoughts ?? []) {
      turn.step(each.id, [each.thought, each.tool && `→ ${each.tool} ${each.tool_input}`, each.observation].filter(Boolean).join("\n"));
    }
    turn.replace(one.answer);
    turn.cite(one.retriever_resources);
    if (one.error) turn.wrong(one.error);
    else turn.finish(one.id, one.feedback?.rating);
  }
  mark();
  toEnd();
};

const choose = async (conversation) => {
  shut();
  await open(conversation).catch((error) => tell(error.message));
  $("ask").focus();
};

const mark = () => {
  for (const one of $("conversations").children) one.setAttribute("aria-current", String(one.dataset.id === state.conversation));
};

const listConversations = async () => {
  const { data } = await json("/conversations?limit=100").catch(() => ({ data: [] }));
  $("conversations").replaceChildren(...data.map((one) => {
    const item = make("li", { "data-id": one.id });
    item.append(
      make("button", { type: "button", onclick: () => choose(one.id) }, one.name),
      make("button", { type: "button", "data-label": "rename", "aria-label": say("rename"), title: say("rename"), onclick: () => rename(one) }, "✎"),
      make("button", { type: "button", "data-label": "erase", "aria-label": say("erase"), title: say("erase"), onclick: () => erase(one) }, "✕"),
    );
    return item;
  }));
  mark();
};

const rename = async (one) => {
  const name = prompt(say("name"), one.name);
  if (!name?.trim()) return;
  await json(`/conversations/${one.id}/name`, { method: "POST", body: { name } }).catch((error) => tell(error.message));
  listConversations();
};

const erase = async (one) => {
  if (!confirm(say("sure"))) return;
  await call(`/conversations/${one.id}`, { method: "DELETE" }).catch((error) => tell(error.message));
  if (one.id === state.conversation) fresh();
  listConversations();
};

const toggle = (isOpen = $("aside").hidden) => {
  $("aside").hidden = !isOpen;
  $("menu").setAttribute("aria-expanded", String(isOpen));
};

const shut = () => {
  if (matchMedia("(max-width: 720px)").matches) toggle(false);
};

// ------------------------------------------------------------------------------------------------ what is typed

const setAsk = (text) => {
  $("ask").value = text;
  grow();
};

const grow = () => {
  const one = $("ask");
  one.style.height = "auto";
  one.style.height = `${one.scrollHeight + 2}px`;
  try {
    sessionStorage.setItem(`modelyard.draft.${token}`, one.value);
  } catch {
    // nothing is kept then
  }
};

const setFiles = (files) => {
  state.files = files;
  $("files").replaceChildren(...files.map((one) => make("li", {}, one.name,
    make("button", { type: "button", "data-label": "remove", "aria-label": `${say("remove")}: ${one.name}`, onclick: () => setFiles(state.files.filter((each) => each !== one)) }, "✕"))));
};

const attach = async (files) => {
  for (const one of files) {
    try {
      setFiles([...state.files, await uploaded(one)]);
    } catch (error) {
      tell(error.message);
    }
  }
};

// ------------------------------------------------------------------------------------------------ what is spoken

const wav = (samples, rate) => {
  const data = new DataView(new ArrayBuffer(44 + samples.length * 2));
  const text = (at, word) => [...word].forEach((sign, place) => data.setUint8(at + place, sign.charCodeAt(0)));
  text(0, "RIFF");
  data.setUint32(4, 36 + samples.length * 2, true);
  text(8, "WAVEfmt ");
  data.setUint32(16, 16, true);
  data.setUint16(20, 1, true);
  data.setUint16(22, 1, true);
  data.setUint32(24, rate, true);
  data.setUint32(28, rate * 2, true);
  data.setUint16(32, 2, true);
  data.setUint16(34, 16, true);
  text(36, "data");
  data.setUint32(40, samples.length * 2, true);
  samples.forEach((one, at) => data.setInt16(44 + at * 2, Math.max(-1, Math.min(1, one)) * 32767, true));
  return new Blob([data], { type: "audio/wav" });
};

let recorder = null;

const speak = async () => {
  if (recorder) return recorder.stop();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const pieces = [];
    recorder = new MediaRecorder(stream);
    recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
    recorder.addEventListener("stop", () => transcribe(stream, new Blob(pieces)));
    recorder.start();
    $("speak").setAttribute("aria-pressed", "true");
    tell(say("speaking"));
  } catch (error) {
    recorder = null;
    tell(error.message);
  }
};

const transcribe = async (stream, recording) => {
  recorder = null;
  $("speak").setAttribute("aria-pressed", "false");
  for (const track of stream.getTracks()) track.stop();
  tell(say("working"));
  try {
    const sound = await new AudioContext().decodeAudioData(await recording.arrayBuffer());
    const context = new OfflineAudioContext(1, Math.ceil(sound.duration * 16000), 16000);
    const source = context.createBufferSource();
    source.buffer = sound;
    source.connect(context.destination);
    source.start();
    const plain = await context.startRendering();
    const form = new FormData();
    form.append("file", wav(plain.getChannelData(0), 16000), "speech.wav");
    const { text } = await json("/audio-to-text", { method: "POST", form });
    setAsk([$("ask").value, text].filter(Boolean).join(" "));
    tell("");
    $("ask").focus();
  } catch (error) {
    tell(error.message);
  }
};

// ------------------------------------------------------------------------------------------------ the beginning

const forms = () => {
  const controls = state.parameters.user_input_form ?? [];
  const form = $("inputs");
  form.replaceChildren(...controls.map(field));
  if (!isChat()) form.append(make("button", { type: "submit", class: "primary", "data-text": "run" }, say("run")));
  form.hidden = !form.children.length;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (isChat()) return;
    try {
      const inputs = await valuesOf(form);
      await start(state.mode === "completion" ? "/completion-messages" : "/workflows/run", { inputs });
    } catch (error) {
      tell(error.message);
    }
  });
};

const begin = async () => {
  setLanguage(new URLSearchParams(location.search).get("lang") ?? kept.get("modelyard.language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
  const [site, info, parameters] = await Promise.all([json("/site"), json("/info"), json("/parameters")]);
  Object.assign(state, { mode: info.mode, parameters });
  document.title = site.title;
  $("title").textContent = site.title;
  $("icon").textContent = site.icon_type === "emoji" && [...(site.icon ?? "")].length <= 3 ? site.icon : "";
  $("about").textContent = site.description ?? "";
  forms();
  if (!isChat()) return;
  $("composer").hidden = $("fresh").hidden = $("menu").hidden = false;
  $("attach").hidden = !parameters.file_upload?.enabled && !parameters.file_upload?.image?.enabled;
  $("speak").hidden = !parameters.speech_to_text?.enabled || !navigator.mediaDevices;
  try {
    setAsk(sessionStorage.getItem(`modelyard.draft.${token}`) ?? "");
  } catch {
    // nothing was kept
  }
  const named = location.hash.slice(1);
  if (named) await open(named).catch(fresh);
  else greet();
  await listConversations();
  if (!matchMedia("(max-width: 720px)").matches && $("conversations").children.length) toggle(true);
  $("ask").focus();
};

$("language").addEventListener("change", (event) => setLanguage(event.target.value));
$("menu").addEventListener("click", () => toggle());
$("fresh").addEventListener("click", () => {
  fresh();
  shut();
  $("ask").focus();
});
$("attach").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", (event) => {
  attach([...event.target.files]);
  event.target.value = "";
});
$("speak").addEventListener("click", speak);
$("ask").addEventListener("input", grow);
$("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (state.running) return stop();
  const query = $("ask").value.trim();
  if (!query) return null;
  setAsk("");
  return send(query);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("aside").hidden && matchMedia("(max-width: 720px)").matches) {
    toggle(false);
    $("menu").focus();
  }
});

begin().catch((error) => tell(error.message));
