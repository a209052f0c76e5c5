// The page's words, in English and in Chinese.

export const WORDS = {
  en: {
    skip: "Skip to the message field", language: "Language", conversations: "Conversations", message: "Message",
    fresh: "New chat", menu: "Conversations", send: "Send", stop: "Stop", attach: "Attach files", speak: "Speak",
    speaking: "Recording. Press again to end.", ask: "Write a message…", you: "You", said: "Answer", thinking: "Thinking",
    steps: "Steps", sources: "Sources", copy: "Copy", copied: "Copied", good: "Good answer", bad: "Bad answer",
    listen: "Listen", more: "More like this", run: "Run", working: "Working…", done: "Done", stopped: "Stopped",
    remove: "Remove", rename: "Rename", name: "A name for this conversation", erase: "Delete", sure: "Delete this conversation?",
    required: "This field is needed.", number: "This must be a number.", json: "This is not JSON.",
    lost: "The connection was lost. What you wrote is still there.", result: "Result", inputs: "Before we begin",
    begin: "Start", failed: "That did not work", uploading: "Uploading", none: "No answer came.", waiting: "This waits for you",
  },
  zh: {
    skip: "跳到输入框", language: "语言", conversations: "对话", message: "消息",
    fresh: "新对话", menu: "对话列表", send: "发送", stop: "停止", attach: "添加文件", speak: "语音输入",
    speaking: "正在录音，再按一次结束。", ask: "输入消息……", you: "你", said: "回答", thinking: "思考过程",
    steps: "步骤", sources: "来源", copy: "复制", copied: "已复制", good: "回答不错", bad: "回答不好",
    listen: "朗读", more: "再来一个类似的", run: "运行", working: "处理中……", done: "完成", stopped: "已停止",
    remove: "移除", rename: "重命名", name: "给对话起个名字", erase: "删除", sure: "删除这个对话吗？",
    required: "此项必填。", number: "请输入数字。", json: "这不是有效的 JSON。",
    lost: "连接已断开。你写的内容还在。", result: "结果", inputs: "开始之前",
    begin: "开始", failed: "没有成功", uploading: "正在上传", none: "没有收到回答。", waiting: "等待你的处理",
  },
};
