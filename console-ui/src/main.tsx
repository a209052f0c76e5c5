import { QueryClient, QueryClientProvider, useQuery, useQueryClient } from "@tanstack/react-query";
import { createRootRoute, createRoute, createRouter, Link, Outlet, RouterProvider } from "@tanstack/react-router";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { api } from "./api";
import { Apps } from "./pages/apps";
import { Enter } from "./pages/enter";
import { Home } from "./pages/home";
import { Playground } from "./pages/playground";
import { Trouble } from "./parts";
import { Chooses, useChosen } from "./settings";
import "./style.css";
import { LANGUAGES, type Language } from "./words";

const Languages = () => {
  const { language, setLanguage, words } = useChosen();
  return (
    <select aria-label={words.language} value={language} onChange={(event) => setLanguage(event.target.value as Language)}>
      {Object.entries(LANGUAGES).map(([name, one]) => <option key={name} value={name}>{one.label}</option>)}
    </select>
  );
};

const Frame = () => {
  const { words } = useChosen();
  const client = useQueryClient();
  const who = useQuery({ queryKey: ["who"], queryFn: api.who, staleTime: 60_000 });
  const [isProtecting, setProtecting] = useState(false);
  if (who.isPending) return null;
  const mode = who.data?.mode;
  const account = who.data?.account;
  const mustEnter = mode !== undefined && mode !== "single" && !account;
  return (
    <>
      <a className="skip" href="#content">{words.skip}</a>
      <header>
        <strong>Modelyard</strong>
        {!mustEnter && (
          <nav aria-label="Modelyard">
            <Link to="/" activeOptions={{ exact: true }} activeProps={{ "aria-current": "page" }}>{words.home}</Link>
            <Link to="/playground" activeProps={{ "aria-current": "page" }}>{words.playground}</Link>
            <Link to="/apps" activeProps={{ "aria-current": "page" }}>{words.apps}</Link>
          </nav>
        )}
        <span className="space" />
        <Languages />
        {account && (
          <button type="button" onClick={() => void api.signOut().then(() => client.invalidateQueries())} title={account.email}>{words.signOut}</button>
        )}
      </header>
      <main id="content" tabIndex={-1}>
        <Trouble of={[who]} />
        {mustEnter || isProtecting ? <Enter isFirst={mode !== "accounts"} onDone={() => setProtecting(false)} /> : who.data && <Outlet />}
      </main>
      {mode === "single" && !isProtecting && (
        <footer>{words.single} <button type="button" className="link" onClick={() => setProtecting(true)}>{words.protect}</button></footer>
      )}
    </>
  );
};

const Missing = () => {
  const { words } = useChosen();
  return <><h1>{words.notFound}</h1><Link to="/">{words.home}</Link></>;
};

const root = createRootRoute({ component: Frame, notFoundComponent: Missing });
const router = createRouter({
  routeTree: root.addChildren([
    createRoute({ getParentRoute: () => root, path: "/", component: Home }),
    createRoute({ getParentRoute: () => root, path: "/playground", component: Playground }),
    createRoute({ getParentRoute: () => root, path: "/apps", component: Apps }),
  ]),
  basepath: "/console",
});

declare module "@tanstack/react-router" {
  interface Register { router: typeof router }
}

const client = new QueryClient({ defaultOptions: { queries: { retry: 1 } } });

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <QueryClientProvider client={client}>
      <Chooses><RouterProvider router={router} /></Chooses>
    </QueryClientProvider>
  </StrictMode>,
);
