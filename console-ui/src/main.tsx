import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { createRootRoute, createRoute, createRouter, lazyRouteComponent, RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { HasToasts } from "./components/base";
import { WORDS } from "./messages";
import { Invited } from "./pages/enter";
import { Home } from "./pages/home";
import { Chooses } from "./settings";
import { Broken, Frame, Missing } from "./shell";
import "./style.css";
import "./console.css";

const root = createRootRoute({ component: Frame, notFoundComponent: Missing });
const page = <Path extends string>(path: Path, component: ReturnType<typeof lazyRouteComponent>) =>
  createRoute({ getParentRoute: () => root, path, component });

const router = createRouter({
  routeTree: root.addChildren([
    createRoute({ getParentRoute: () => root, path: "/", component: Home }),
    page(
      "/playground",
      lazyRouteComponent(() => import("./pages/playground"), "Playground"),
    ),
    page(
      "/providers",
      lazyRouteComponent(() => import("./pages/providers"), "Providers"),
    ),
    page(
      "/providers/$id",
      lazyRouteComponent(() => import("./pages/providers"), "Provider"),
    ),
    page(
      "/models",
      lazyRouteComponent(() => import("./pages/models"), "Models"),
    ),
    page(
      "/routes",
      lazyRouteComponent(() => import("./pages/routes"), "Routes"),
    ),
    page(
      "/usage",
      lazyRouteComponent(() => import("./pages/usage"), "Usage"),
    ),
    page(
      "/requests",
      lazyRouteComponent(() => import("./pages/requests"), "Requests"),
    ),
    page(
      "/requests/$id",
      lazyRouteComponent(() => import("./pages/requests"), "Call"),
    ),
    page(
      "/keys",
      lazyRouteComponent(() => import("./pages/keys"), "Keys"),
    ),
    page(
      "/plugins",
      lazyRouteComponent(() => import("./pages/plugins"), "Plugins"),
    ),
    page(
      "/workflows",
      lazyRouteComponent(() => import("./pages/apps"), "Workflows"),
    ),
    page(
      "/workflows/$id",
      lazyRouteComponent(() => import("./canvas/editor"), "Editor"),
    ),
    page(
      "/knowledge",
      lazyRouteComponent(() => import("./pages/knowledge"), "Knowledge"),
    ),
    page(
      "/knowledge/$id",
      lazyRouteComponent(() => import("./pages/knowledge"), "DatasetPage"),
    ),
    page(
      "/apps",
      lazyRouteComponent(() => import("./pages/apps"), "Apps"),
    ),
    page(
      "/apps/$id",
      lazyRouteComponent(() => import("./pages/app"), "AppPage"),
    ),
    page(
      "/settings",
      lazyRouteComponent(() => import("./pages/settings"), "Settings"),
    ),
    createRoute({ getParentRoute: () => root, path: "/invitation", component: Invited }),
  ]),
  basepath: "/console",
  defaultPreload: "intent",
  defaultErrorComponent: Broken,
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}

const client = new QueryClient({ defaultOptions: { queries: { retry: 1, staleTime: 2_000 } } });

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <QueryClientProvider client={client}>
      <Chooses words={WORDS}>
        <HasToasts>
          <RouterProvider router={router} />
        </HasToasts>
      </Chooses>
    </QueryClientProvider>
  </StrictMode>,
);
