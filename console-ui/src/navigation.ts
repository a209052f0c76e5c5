// The console's pages: where they are, what they are called, and who may see them.

import type { Words } from "./messages";
import type { Role } from "./permissions";

export const PAGES = [
  "/",
  "/playground",
  "/workflows",
  "/apps",
  "/knowledge",
  "/providers",
  "/models",
  "/routes",
  "/usage",
  "/requests",
  "/keys",
  "/plugins",
  "/settings",
] as const;
export const NAMES: Record<(typeof PAGES)[number], keyof Words> = {
  "/": "home",
  "/playground": "playground",
  "/workflows": "workflows",
  "/apps": "apps",
  "/knowledge": "knowledge",
  "/providers": "providers",
  "/models": "models",
  "/routes": "routesAndLimits",
  "/usage": "usageAndCost",
  "/requests": "requests",
  "/keys": "keysAndPeople",
  "/plugins": "plugins",
  "/settings": "settings",
};

// What takes a role above viewer; the rest takes an administrator.
export const NEEDS: Partial<Record<(typeof PAGES)[number], Role>> = {
  "/": "viewer",
  "/usage": "viewer",
  "/requests": "viewer",
  "/playground": "developer",
  "/knowledge": "developer",
  "/apps": "editor",
};
