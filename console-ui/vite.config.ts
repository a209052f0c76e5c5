/// <reference types="vitest/config" />
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// The server hands these files out as they are: no script, style or font of theirs comes from anywhere else. Two pages are
// built of one source: the console, and the page of an app. What both need lies below both addresses, so that whoever lets
// the world reach `/chat` alone has let it reach all that an app's page is made of.
const BELOW: Record<string, string> = { "index.html": "/console/", "chat.html": "/chat/-/" };

export default defineConfig({
  base: "/console/",
  plugins: [react()],
  experimental: {
    renderBuiltUrl: (name, { hostId, hostType }) =>
      hostType === "html" ? `${BELOW[hostId] ?? "/console/"}${name}` : { relative: true },
  },
  build: {
    outDir: "../src/modelyard/gateway/console",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 700,
    rollupOptions: { input: ["index.html", "chat.html"] },
  },
  // Property tests try many cases; on a busy machine one test may take longer than the usual five seconds.
  test: { include: ["tests/**/*.test.ts"], setupFiles: ["tests/browser.ts"], testTimeout: 60_000 },
});
