// What stands around every page: where one can go, who is here, and a list of everything by name (Ctrl K).
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type ErrorComponentProps, Link, Outlet, useNavigate, useRouter, useRouterState } from "@tanstack/react-router";
import { lazy, Suspense, useEffect, useState } from "react";
import { actFor, actingFor, api, session } from "./api";
import { Trouble, useWrong } from "./components/base";
import { LanguagePick } from "./components/languages";
import { useLive } from "./live";
import { filled } from "./messages";
import { NAMES, NEEDS, PAGES } from "./navigation";
import { Enter } from "./pages/enter";
import { useMay, useWho } from "./permissions";
import { type Theme, useChosen } from "./settings";

const above = () => import("./overlays");
const Palette = lazy(() => above().then((module) => ({ default: module.Palette })));
const SignInAbove = lazy(() => above().then((module) => ({ default: module.SignInAbove })));

const Chosen = () => {
  const { theme, setTheme, t } = useChosen();
  return (
    <>
      <LanguagePick />
      <select aria-label={t.theme} value={theme} onChange={(event) => setTheme(event.target.value as Theme)}>
        <option value="system">{t.themeSystem}</option>
        <option value="light">{t.themeLight}</option>
        <option value="dark">{t.themeDark}</option>
      </select>
    </>
  );
};

// The operator chooses whose things the pages are about.
const ActFor = () => {
  const { t } = useChosen();
  const client = useQueryClient();
  const navigate = useNavigate();
  const tenants = useQuery({ queryKey: ["tenants", "all"], queryFn: api.tenants, retry: false, staleTime: 60_000 });
  const [at, setAt] = useState(actingFor());
  const names = (tenants.data ?? []).map((tenant) => tenant.name).filter((name) => name !== "default");
  if (!names.length && !at) return null;
  return (
    <select
      aria-label={t.actFor}
      value={at}
      className={at ? "acting" : ""}
      onChange={(event) => {
        actFor(event.target.value);
        setAt(event.target.value);
        void navigate({ to: "/" }).then(() => client.resetQueries());
      }}
    >
      <option value="">{t.ownTenant}</option>
      {(at && !names.includes(at) ? [at, ...names] : names).map((name) => (
        <option key={name} value={name}>
          {filled(t.forTenant, { name: name })}
        </option>
      ))}
    </select>
  );
};

export const Frame = () => {
  const { t } = useChosen();
  const client = useQueryClient();
  const at = useRouterState({ select: (state) => state.location.pathname });
  const who = useWho();
  const { may, isOperator } = useMay();
  const [isProtecting, setProtecting] = useState(false);
  const [isExpired, setExpired] = useState(false);
  const [isGoing, setGoing] = useState(false);
  const [isMenu, setMenu] = useState(false);
  const mode = who.data?.mode;
  const account = who.data?.account;
  const isInvited = at.endsWith("/invitation");
  const mustEnter = mode !== undefined && mode !== "single" && !account && !isInvited;
  const isThere = useLive(who.data !== undefined && !mustEnter && !isExpired);
  useEffect(() => {
    session.onExpired = () => {
      if (account) setExpired(true);
      else void client.invalidateQueries({ queryKey: ["who"] });
    };
  }, [account, client]);
  useEffect(() => {
    const hear = (event: KeyboardEvent) => {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
        event.preventDefault();
        setGoing(true);
      }
    };
    window.addEventListener("keydown", hear);
    return () => window.removeEventListener("keydown", hear);
  }, []);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the menu closes when one goes to another page
  useEffect(() => setMenu(false), [at]);
  useEffect(() => {
    const later = setTimeout(() => void above(), 1500);
    return () => clearTimeout(later);
  }, []);
  return (
    <>
      <a className="skip" href="#content">
        {t.skip}
      </a>
      <header>
        <button
          type="button"
          className="icon menu"
          aria-expanded={isMenu}
          aria-controls="nav"
          aria-label={t.menu}
          onClick={() => setMenu(!isMenu)}
        >
          ☰
        </button>
        <strong>Modelyard</strong>
        <span className="space" />
        {!mustEnter && (
          <button type="button" className="find" onClick={() => setGoing(true)}>
            {t.goTo} <kbd>Ctrl K</kbd>
          </button>
        )}
        {isOperator && !mustEnter && <ActFor />}
        <Chosen />
        {account && (
          <button
            type="button"
            onClick={() => void api.signOut().then(() => client.resetQueries())}
            title={account.email}
          >
            {t.signOut}
          </button>
        )}
      </header>
      <div className="body">
        {!mustEnter && (
          <nav id="nav" aria-label={t.pages} className={isMenu ? "open" : ""}>
            {PAGES.filter((path) => may(NEEDS[path] ?? "admin")).map((to) => (
              <Link key={to} to={to} activeOptions={{ exact: to === "/" }} activeProps={{ "aria-current": "page" }}>
                {t[NAMES[to]] as string}
              </Link>
            ))}
            {mode === "single" && (
              <p className="soft small">
                {t.single}{" "}
                <button type="button" className="link" onClick={() => setProtecting(true)}>
                  {t.protect}
                </button>
              </p>
            )}
          </nav>
        )}
        <main id="content" tabIndex={-1}>
          {!isThere && who.data && !mustEnter && (
            <p className="wrong" role="alert">
              {t.lostRetrying}
            </p>
          )}
          <Trouble of={[who]} />
          {mustEnter ? <Enter isFirst={mode === "setup"} /> : who.data && <Outlet />}
        </main>
      </div>
      <Suspense fallback={null}>
        {isGoing && <Palette onClose={() => setGoing(false)} />}
        {isProtecting && <SignInAbove isFirst onDone={() => setProtecting(false)} />}
        {isExpired && <SignInAbove isFirst={false} onDone={() => setExpired(false)} />}
      </Suspense>
    </>
  );
};

export const Missing = () => {
  const { t } = useChosen();
  return (
    <>
      <h1>{t.notFound}</h1>
      <Link to="/">{t.home}</Link>
    </>
  );
};

export const Broken = ({ error, reset }: ErrorComponentProps) => {
  const { t } = useChosen();
  const router = useRouter();
  const errorText = useWrong();
  return (
    <div role="alert">
      <h1>{t.wrong}</h1>
      <p>{errorText(error)}</p>
      <button
        type="button"
        onClick={() => {
          reset();
          void router.invalidate();
        }}
      >
        {t.again}
      </button>
    </div>
  );
};
