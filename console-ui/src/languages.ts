// Words stand each beside their other language: neither can be forgotten.
type Pair = readonly [en: string, zh: string];
export interface Table {
  readonly [name: string]: Pair | Table;
}
export type Texts<T> = { readonly [K in keyof T]: T[K] extends Pair ? string : Texts<T[K]> };

export const LANGUAGES = { en: { tag: "en", label: "English" }, zh: { tag: "zh-Hans", label: "中文" } } as const;
export type Language = keyof typeof LANGUAGES;

const picked = (from: Table, at: 0 | 1): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(from).map(([name, entry]) => [
      name,
      Array.isArray(entry) ? (entry as Pair)[at] : picked(entry as Table, at),
    ]),
  );

export const inEach = <T extends Table>(table: T): Record<Language, Texts<T>> => ({
  en: picked(table, 0) as Texts<T>,
  zh: picked(table, 1) as Texts<T>,
});

export const filled = (text: string, values: Record<string, string | number>) =>
  text.replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ""));

// What the console and the apps' page both say.
export const COMMON = {
  lost: ["The server cannot be reached.", "无法连接服务器。"],
  dismiss: ["Dismiss", "关闭提示"],
  copied: ["Copied.", "已复制。"],
  cannotCopy: ["The browser does not allow copying.", "浏览器不允许复制。"],
  copy: ["Copy", "复制"],
  close: ["Close", "关闭"],
  cancel: ["Cancel", "取消"],
  optional: ["optional", "可选"],
  language: ["Language", "语言"],
  message: ["Message", "消息"],
  send: ["Send", "发送"],
  stop: ["Stop", "停止"],
  ask: ["Write a message…", "输入消息……"],
  you: ["You", "你"],
  answer: ["Answer", "回答"],
  thinking: ["Reasoning", "思考过程"],
  remove: ["Remove", "移除"],
  run: ["Run", "运行"],
  isNeeded: ["This field is needed.", "此项必填。"],
  notANumber: ["This must be a number.", "请输入数字。"],
  notJson: ["Invalid JSON", "JSON 无效"],
} as const satisfies Table;
export type CommonWords = Texts<typeof COMMON>;
