// The words of an app's page; what they share with the console's is in `languages.ts`.
import { COMMON, inEach, type Table, type Texts } from "../languages";
import { useWordsOf } from "../settings";

const table = {
  ...COMMON,
  skip: ["Skip to the message field", "跳到输入框"],
  lost: ["The connection was lost. What you wrote is still there.", "无法连接服务器。"],
  conversation: ["Conversation", "对话"],
  conversations: ["Conversations", "对话列表"],
  fresh: ["New chat", "新对话"],
  attach: ["Attach files", "添加文件"],
  uploading: ["Uploading: {name}", "正在上传：{name}"],
  speak: ["Speak", "语音输入"],
  speaking: ["Recording. Press again to end.", "正在录音，再按一次结束。"],
  steps: ["Steps", "步骤"],
  sources: ["Sources", "来源"],
  good: ["Good answer", "回答不错"],
  bad: ["Bad answer", "回答不好"],
  listen: ["Listen", "朗读"],
  more: ["More like this", "再来一个类似的"],
  working: ["Working…", "处理中……"],
  done: ["Done", "完成"],
  waiting: ["This waits for you", "等待你的处理"],
  none: ["No answer came.", "没有收到回答。"],
  failed: ["That did not work", "没有成功"],
  rename: ["Rename", "重命名"],
  name: ["A name for this conversation", "给对话起个名字"],
  erase: ["Delete", "删除"],
  sure: ["Delete “{name}”?", "删除“{name}”吗？"],
} as const satisfies Table;

export type ChatWords = Texts<typeof table>;
export const CHAT_WORDS = inEach(table);
export const useChat = () => useWordsOf<ChatWords>();
