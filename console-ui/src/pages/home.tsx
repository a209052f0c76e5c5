import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { api, type Shape } from "../api";
import { Card, Copied, Empty, Page, Trouble } from "../components/base";
import { Figure } from "../components/figure";
import { Table } from "../components/table";
import { filled } from "../messages";
import { useMay } from "../permissions";
import { useChosen } from "../settings";

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
  const usage = useQuery({ queryKey: ["usage", "today"], queryFn: () => api.usage("provider,model", midnight()) });
  const about = useQuery({ queryKey: ["about"], queryFn: api.about, staleTime: 60_000 });
  const text = about.data && filled(t.runsSince, { version: about.data.version, span: span(about.data.uptime) });
  return (
    <Page title={t.home} text={text}>
      <Trouble of={[usage]} />
      <Problems about={about.data} />
      <Today rows={usage.data} />
      <Failures />
      <FirstSteps />
    </Page>
  );
};

// What somebody has to do something about.
const Problems = ({ about }: { about: Shape<"About"> | undefined }) => {
  const { t, span } = useChosen();
  const resting = useQuery({ queryKey: ["resting"], queryFn: api.resting, retry: false });
  const models = useReadyModels();
  const problems: { text: string; to: string; what: string }[] = [];
  if (about?.problem) problems.push({ text: about.problem, to: "/settings", what: t.lookAtSettings });
  for (const [credential, seconds] of Object.entries(resting.data ?? {})) {
    const text = filled(t.restingFor, { credential, seconds: span(seconds) });
    problems.push({ text, to: "/providers", what: t.lookAtProviders });
  }
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

const Today = ({ rows }: { rows: UsageRow[] | undefined }) => {
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
      {rows && rows.length > 0 && (
        <>
          <Totals rows={rows} />
          <ByModel rows={rows} />
        </>
      )}
    </Card>
  );
};

const Totals = ({ rows }: { rows: UsageRow[] }) => {
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
      <Figure label={t.callsMade} value={number(sum(rows, (row) => row.calls))} />
      <Figure label={t.failed} value={number(sum(rows, (row) => row.failed))} />
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
            <Link to="/requests" search={{ model: row.model, since: midnight() } as never}>
              {row.provider}/{row.model}
            </Link>
          ),
        },
        { title: t.callsMade, cell: (row) => number(row.calls), isNumber: true },
        { title: t.failed, cell: (row) => number(row.failed), isNumber: true },
        { title: t.tokens, cell: (row) => number(tokensOf(row)), isNumber: true },
        { title: t.cost, cell: (row) => money(row.cost, row.currency), isNumber: true },
      ]}
    />
  );
};

const Failures = () => {
  const { t } = useChosen();
  const failed = useQuery({
    queryKey: ["calls", "failed today"],
    queryFn: () => api.calls({ since: midnight(), status: "failed", limit: 5 }),
  });
  if (!failed.data?.total) return null;
  return (
    <Card
      title={t.lastFailures}
      actions={
        <Link to="/requests" search={{ status: "failed", since: midnight() } as never}>
          {t.allOfThem}
        </Link>
      }
    >
      <ul className="plain">
        {failed.data.data.map((call) => (
          <li key={call.id}>
            <Link to="/requests/$id" params={{ id: call.call }}>
              {call.provider}/{call.model}
            </Link>{" "}
            <span className="wrong">{call.status}</span>
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
