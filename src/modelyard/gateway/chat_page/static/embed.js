// <script src="https://HOST/chat/-/embed.js" data-token="TOKEN" defer></script>: a button that opens an app's page.
(() => {
  const me = document.currentScript;
  const token = me.dataset.token;
  if (!token) {
    console.error("modelyard: data-token is missing");
    return;
  }
  const origin = new URL(me.src).origin;
  const zh = (me.dataset.language || document.documentElement.lang || navigator.language).startsWith("zh");
  const words = zh ? { open: "打开聊天", close: "关闭聊天" } : { open: "Open chat", close: "Close chat" };
  const button = document.createElement("button");
  const style = (one, values) => Object.assign(one.style, values);
  style(button, {
    position: "fixed", insetInlineEnd: "20px", bottom: "20px", width: "56px", height: "56px", zIndex: "2147483000",
    border: "0", borderRadius: "50%", background: me.dataset.color || "#1f56d6", color: "#fff", fontSize: "24px",
    cursor: "pointer", boxShadow: "0 4px 16px #0004",
  });
  button.type = "button";
  let frame = null;
  const show = (open) => {
    button.textContent = open ? "×" : "💬";
    button.setAttribute("aria-label", open ? words.close : words.open);
    button.setAttribute("aria-expanded", String(open));
    if (open && !frame) {
      frame = document.createElement("iframe");
      frame.src = `${origin}/chat/${encodeURIComponent(token)}`;
      frame.title = me.dataset.title || words.open;
      frame.allow = "microphone; clipboard-write";
      style(frame, {
        position: "fixed", insetInlineEnd: "20px", bottom: "88px", width: "min(420px, calc(100vw - 40px))",
        height: "min(640px, calc(100vh - 120px))", border: "1px solid #0003", borderRadius: "14px",
        background: "Canvas", zIndex: "2147483000", boxShadow: "0 8px 32px #0003",
      });
      document.body.append(frame);
    }
    if (frame) frame.hidden = !open;
  };
  let isOpen = false;
  button.addEventListener("click", () => show((isOpen = !isOpen)));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isOpen) {
      show((isOpen = false));
      button.focus();
    }
  });
  show(false);
  document.body.append(button);
})();
