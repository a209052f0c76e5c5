import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { api, type Shape } from "../api";
import { Card, Copied, Empty, Page, Trouble } from "../components/base";
import { Figure } from "../components/figure";
import { Table } from "../components/table";
import { filled } from "../messages";
import { useMay } from "../permissions";
import { useChosen } from "../settings";
import type { CallTotals } from "./usage-series";

type UsageRow = Shape<"UsageSum">;

const midnight = () => Math.floor(new Date().setHours(0, 0, 0, 0) / 1000);
const sum = (rows: UsageRow[], measure: (row: UsageRow) => number) =>
  rows.reduce((total, row) => total + measure(row), 0);
const tokensOf = (row: UsageRow) => row.prompt_tokens + row.completion_tokens;

const useReadyModels = () =>
  useQuery({
    queryKey: ["catalogue", "ready"],
    queryFn: () => api.catalogue({ ready: true }),
    retry: false,
    staleTime: 30_000,
  });

export const Home = () => {
  const { t, span } = useChosen();
  const usage = useQuery({
    queryKey: ["usage", "today"],
    queryFn: () => api.usageReport("provider,model", midnight()),
  });
  const about = useQuery({ queryKey: ["about"], queryFn: api.about, staleTime: 60_000 });
  const text = about.data && filled(t.runsSince, { version: about.data.version, span: span(about.data.uptime) });
  return (
    <Page title={t.home} text={text}>
      <Trouble of={[usage]} />
      <Problems about={about.data} />
      <Today rows={usage.data?.data} total={usage.data?.total as CallTotals | undefined} />
      <LastOf outcome="failed" title={t.lastFailures} />
      <LastOf outcome="refused" title={t.lastRefusals} />
      <FirstSteps />
    </Page>
  );
};

// What somebody has to do something about.
const Problems = ({ about }: { about: Shape<"About"> | undefined }) => {
  const { t, span } = useChosen();
  const resting = useQuery({ queryKey: ["resting"], queryFn: api.resting, retry: false });
  const models = useReadyModels();
  const budgets = useQuery({ queryKey: ["limits", "budgets"], queryFn: api.budgets, retry: false });
  const problems: { text: string; to: string; what: string }[] = [];
  if (about?.problem) problems.push({ text: about.problem, to: "/settings", what: t.lookAtSettings });
  for (const [credential, seconds] of Object.entries(resting.data ?? {})) {
    const text = filled(t.restingFor, { credential, seconds: span(seconds) });
    problems.push({ text, to: "/providers", what: t.lookAtProviders });
  }
  for (const budget of budgets.data ?? [])
    if (budget.is_spent)
      problems.push({ text: filled(t.spentLimit, { name: budget.name }), to: "/routes", what: t.lookAtLimits });
  if (models.data && !models.data.some((model) => model.type === "llm"))
    problems.push({ text: t.noChatModel, to: "/providers", what: t.addProvider });
  return (
    <Card title={t.needsYou}>
      {problems.length ? (
        <ul className="plain">
          {problems.map((problem) => (
            <li key={problem.text}>
              <span className="wrong">{problem.text}</span> <Link to={problem.to}>{problem.what}</Link>
            </li>
          ))}
        </ul>
      ) : (
        <p>{t.allWell}</p>
      )}
    </Card>
  );
};

const Today = ({ rows, total }: { rows: UsageRow[] | undefined; total: CallTotals | undefined }) => {
  const { t } = useChosen();
  const { may } = useMay();
  return (
    <Card title={t.today} actions={<Link to="/usage">{t.usageAndCost}</Link>}>
      {rows && !rows.length && (
        <Empty title={t.noCalls}>
          {may("developer") && (
            <p>
              <Link to="/playground">{t.stepChat}</Link>
            </p>
          )}
        </Empty>
      )}
      {rows && total && rows.length > 0 && (
        <>
          <Totals rows={rows} total={total} />
          <ByModel rows={rows} />
        </>
      )}
    </Card>
  );
};

const Totals = ({ rows, total }: { rows: UsageRow[]; total: CallTotals }) => {
  const { t, number, money } = useChosen();
  const currencies = [...new Set(rows.map((row) => row.currency))];
  const isPriced = rows.every((row) => row.unpriced === 0);
  const costIn = (currency: string) =>
    sum(
      rows.filter((row) => row.currency === currency),
      (row) => Number(row.cost),
    );
  return (
    <dl className="figures">
      <Figure label={t.callsMade} value={number(total.calls)} />
      <Figure label={t.failed} value={number(total.failed)} />
      <Figure label={t.refused} value={number(total.refused)} />
      <Figure label={t.cancelled} value={number(total.cancelled)} />
      <Figure label={t.tokens} value={number(sum(rows, tokensOf))} />
      {currencies.map((currency) => (
        <Figure
          key={currency}
          label={t.cost}
          value={
            <>
              {money(costIn(currency), currency)}
              {!isPriced && <small> {t.unpriced}</small>}
            </>
          }
        />
      ))}
    </dl>
  );
};

const ByModel = ({ rows }: { rows: UsageRow[] }) => {
  const { t, number, money } = useChosen();
  return (
    <Table
      caption={t.byModel}
      rows={rows}
      id={(row) => `${row.provider}/${row.model}/${row.currency}`}
      columns={[
        {
          title: t.model,
          cell: (row) => (
            <Link
              to="/requests"
              search={{ ...(row.model === "-" ? {} : { model: row.model }), since: midnight() } as never}
            >
              {row.model === "-" ? t.none : `${row.provider}/${row.model}`}
            </Link>
          ),
        },
        { title: t.callsMade, cell: (row) => number(row.calls), isNumber: true },
        { title: t.failed, cell: (row) => number(row.failed), isNumber: true },
        { title: t.refused, cell: (row) => number(row.refused ?? 0), isNumber: true },
        { title: t.tokens, cell: (row) => number(tokensOf(row)), isNumber: true },
        { title: t.cost, cell: (row) => money(row.cost, row.currency), isNumber: true },
      ]}
    />
  );
};

// The last calls of today that ended like this.
const LastOf = ({ outcome, title }: { outcome: string; title: string }) => {
  const { t } = useChosen();
  const last = useQuery({
    queryKey: ["requests", "today", outcome],
    queryFn: () => api.requests({ since: midnight(), outcome, limit: 5 }),
  });
  if (!last.data?.total) return null;
  return (
    <Card
      title={title}
      actions={
        <Link to="/requests" search={{ outcome, since: midnight() } as never}>
          {t.allOfThem}
        </Link>
      }
    >
      <ul className="plain">
        {last.data.data.map((call) => (
          <li key={call.id}>
            <Link to="/requests/$id" params={{ id: call.id }}>
              {[call.provider, call.model].filter(Boolean).join("/") || call.route || call.id}
            </Link>{" "}
            <span className="wrong">{call.status}</span>{" "}
            {call.is_counting && <span className="soft">× {call.calls}</span>}
          </li>
        ))}
      </ul>
    </Card>
  );
};

const FirstSteps = () => {
  const { t } = useChosen();
  const { may } = useMay();
  return (
    <Card title={t.firstSteps}>
      <ol>
        {may("developer") && (
          <li>
            <Link to="/playground">{t.stepChat}</Link>
          </li>
        )}
        <li>
          {t.stepKeyText} <code>{location.origin}/v1</code> <Copied text={`${location.origin}/v1`} />
        </li>
        {may("admin") && (
          <>
            <ProviderStep />
            <li>
              <Link to="/workflows">{t.stepWorkflow}</Link>
            </li>
          </>
        )}
        {may("developer") && (
          <li>
            <Link to="/knowledge">{t.stepKnowledge}</Link>
          </li>
        )}
      </ol>
    </Card>
  );
};

const ProviderStep = () => {
  const { t } = useChosen();
  const providers = useQuery({ queryKey: ["providers"], queryFn: api.providers, retry: false, staleTime: 30_000 });
  const models = useReadyModels();
  const isReady = (id: string) => models.data?.some((model) => model.provider === id);
  const readyIds = (providers.data ?? []).map((provider) => provider.id).filter(isReady);
  return (
    <li>
      <Link to="/providers">{t.addProvider}</Link>
      {readyIds.length > 0 && <span className="soft"> {filled(t.readyNow, { names: readyIds.join(", ") })}</span>}
    </li>
  );
};
