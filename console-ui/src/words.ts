// The console's words. Chinese has every key that English has, or it does not compile.

const en = {
  home: "Home", playground: "Playground", signOut: "Sign out", language: "Language", skip: "Skip to the content",
  email: "Email", password: "Password", name: "Name", signIn: "Sign in", signInTitle: "Sign in to Modelyard",
  setUpTitle: "Make the first account", setUpText: "It owns this server. Nobody else can make one this way afterwards.",
  setUp: "Make it", single: "Nobody has to sign in on this machine.", protect: "Protect it with an account",
  welcome: "Welcome", firstSteps: "First steps", stepChat: "Say hello to a model", stepKey: "Call it from a program",
  stepKeyText: "Point any OpenAI client at this address:", models: "Models here", today: "Today", calls: "calls",
  tokens: "tokens", cost: "cost", failed: "failed", noCalls: "Nothing was called today. Say hello to a model to see it here.",
  model: "Model", message: "Message", send: "Send", stop: "Stop", clear: "Clear", you: "You", answer: "Answer",
  thinking: "Thinking", ask: "Write a message…", empty: "Choose a model and write to it.", lost: "The server cannot be reached.",
  unpriced: "not all priced", copy: "Copy", copied: "Copied", asCurl: "The same call", took: "first word {first} s, all {all} s, {tokens} tokens",
  byModel: "By model", running: "The server runs.", resting: "{count} credentials rest after failures.", sayMore: "Nothing needs you.",
  notFound: "There is no such page.", wrong: "Something is wrong",
  apps: "Apps", importTitle: "Import apps", importText: "Drop exported app files here, or choose them", imported: "imported",
  needs: "It needs what may not be here:", noApps: "No apps yet. Any app exported from Dify will do, as it is.",
  published: "Published", neverPublished: "Never published", hasDraft: "a draft waits", publish: "Publish the draft",
  pageOn: "Put it on a page", pageOff: "Take the page away", openPage: "Open its page",
};

export type Words = typeof en;

const zh: Words = {
  home: "首页", playground: "试用", signOut: "退出登录", language: "语言", skip: "跳到内容",
  email: "邮箱", password: "密码", name: "姓名", signIn: "登录", signInTitle: "登录 Modelyard",
  setUpTitle: "创建第一个账户", setUpText: "它拥有这台服务器，之后其他人不能再这样创建。",
  setUp: "创建", single: "在本机使用无需登录。", protect: "用账户保护它",
  welcome: "欢迎", firstSteps: "第一步", stepChat: "和模型打个招呼", stepKey: "从程序里调用",
  stepKeyText: "把任意 OpenAI 客户端指向这个地址：", models: "这里的模型", today: "今天", calls: "次调用",
  tokens: "个 token", cost: "费用", failed: "次失败", noCalls: "今天还没有调用。和模型打个招呼，这里就会显示。",
  model: "模型", message: "消息", send: "发送", stop: "停止", clear: "清空", you: "你", answer: "回答",
  thinking: "思考过程", ask: "输入消息……", empty: "选一个模型，给它写点什么。", lost: "连不上服务器。",
  unpriced: "部分没有价格", copy: "复制", copied: "已复制", asCurl: "同样的调用", took: "首字 {first} 秒，全部 {all} 秒，{tokens} 个 token",
  byModel: "按模型", running: "服务器正在运行。", resting: "{count} 个凭据因失败在休息。", sayMore: "没有需要你处理的事。",
  notFound: "没有这个页面。", wrong: "出错了",
  apps: "应用", importTitle: "导入应用", importText: "把导出的应用文件拖到这里，或选择文件", imported: "已导入",
  needs: "它需要这里可能没有的：", noApps: "还没有应用。从 Dify 导出的任何应用都可以直接使用。",
  published: "已发布", neverPublished: "从未发布", hasDraft: "有待发布的草稿", publish: "发布草稿",
  pageOn: "放到网页上", pageOff: "撤下网页", openPage: "打开网页",
};

export const LANGUAGES = { en: { words: en, tag: "en", label: "English" }, zh: { words: zh, tag: "zh-Hans", label: "中文" } };
export type Language = keyof typeof LANGUAGES;

export const filled = (text: string, values: Record<string, string | number>) =>
  text.replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ""));
