import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// The server hands these files out as they are: no script, style or font of theirs comes from anywhere else.
export default defineConfig({
  base: "/console/",
  plugins: [react()],
  build: {
    outDir: "../src/modelyard/gateway/console",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 700,
  },
});
