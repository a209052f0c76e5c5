import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { api } from "../api";
import { Card, Copied, Empty, Page, Trouble } from "../components/base";
import { Table } from "../components/table";
import { filled } from "../messages";
import { useMay } from "../permissions";
import { useChosen } from "../settings";

const midnight = () => Math.floor(new Date().setHours(0, 0, 0, 0) / 1000);

export const Home = () => {
  const { t, number, money, span } = useChosen();
  const { may } = useMay();
  const usage = useQuery({ queryKey: ["usage", "today"], queryFn: () => api.usage("provider,model", midnight()) });
  const failed = useQuery({
    queryKey: ["calls", "failed today"],
    queryFn: () => api.calls({ since: midnight(), status: "failed", limit: 5 }),
  });
  const resting = useQuery({ queryKey: ["resting"], queryFn: api.resting, retry: false });
  const about = useQuery({ queryKey: ["about"], queryFn: api.about, staleTime: 60_000 });
  const providers = useQuery({ queryKey: ["providers"], queryFn: api.providers, retry: false, staleTime: 30_000 });
  const models = useQuery({
    queryKey: ["catalogue", "ready"],
    queryFn: () => api.catalogue({ ready: true }),
    retry: false,
    staleTime: 30_000,
  });
  const rows = usage.data ?? [];
  const sum = (pick: (one: (typeof rows)[number]) => number) => rows.reduce((total, one) => total + pick(one), 0);
  const currencies = [...new Set(rows.map((one) => one.currency))];
  const isPriced = rows.every((one) => one.unpriced === 0);
  const wrongs = [
    ...(about.data?.problem ? [{ text: about.data.problem, to: "/settings", what: t.lookAtSettings }] : []),
    ...Object.entries(resting.data ?? {}).map(([place, seconds]) => ({
      text: filled(t.restingFor, { place, seconds: span(seconds) }),
      to: "/providers",
      what: t.lookAtProviders,
    })),
    ...(models.data && !models.data.some((one) => one.type === "llm")
      ? [{ text: t.noChatModel, to: "/providers", what: t.addProvider }]
      : []),
  ];
  const ready = (providers.data ?? []).filter((one) => models.data?.some((model) => model.provider === one.id));
  return (
    <Page
      title={t.home}
      text={
        about.data ? filled(t.runsSince, { version: about.data.version, span: span(about.data.uptime) }) : undefined
      }
    >
      <Trouble of={[usage]} />
      <Card title={t.needsYou}>
        {wrongs.length ? (
          <ul className="plain">
            {wrongs.map((one) => (
              <li key={one.text}>
                <span className="wrong">{one.text}</span> <Link to={one.to}>{one.what}</Link>
              </li>
            ))}
          </ul>
        ) : (
          <p>{t.allWell}</p>
        )}
      </Card>
      <Card title={t.today} actions={<Link to="/usage">{t.usageAndCost}</Link>}>
        {usage.data && !rows.length ? (
          <Empty title={t.noCalls}>
            {may("developer") && (
              <p>
                <Link to="/playground">{t.stepChat}</Link>
              </p>
            )}
          </Empty>
        ) : (
          rows.length > 0 && (
            <>
              <dl className="figures">
                <div>
                  <dt>{t.callsMade}</dt>
                  <dd>{number(sum((one) => one.calls))}</dd>
                </div>
                <div>
                  <dt>{t.failed}</dt>
                  <dd>{number(sum((one) => one.failed))}</dd>
                </div>
                <div>
                  <dt>{t.tokens}</dt>
                  <dd>{number(sum((one) => one.prompt_tokens + one.completion_tokens))}</dd>
                </div>
                {currencies.map((currency) => (
                  <div key={currency}>
                    <dt>{t.cost}</dt>
                    <dd>
                      {money(
                        rows
                          .filter((one) => one.currency === currency)
                          .reduce((total, one) => total + Number(one.cost), 0),
                        currency,
                      )}
                      {!isPriced && <small> {t.unpriced}</small>}
                    </dd>
                  </div>
                ))}
              </dl>
              <Table
                caption={t.byModel}
                rows={rows}
                id={(one) => `${one.provider}/${one.model}/${one.currency}`}
                columns={[
                  {
                    title: t.model,
                    cell: (one) => (
                      <Link to="/requests" search={{ model: one.model, since: midnight() } as never}>
                        {one.provider}/{one.model}
                      </Link>
                    ),
                  },
                  { title: t.callsMade, cell: (one) => number(one.calls), isNumber: true },
                  { title: t.failed, cell: (one) => number(one.failed), isNumber: true },
                  { title: t.tokens, cell: (one) => number(one.prompt_tokens + one.completion_tokens), isNumber: true },
                  { title: t.cost, cell: (one) => money(one.cost, one.currency), isNumber: true },
                ]}
              />
            </>
          )
        )}
      </Card>
      {(failed.data?.total ?? 0) > 0 && (
        <Card
          title={t.lastFailures}
          actions={
            <Link to="/requests" search={{ status: "failed", since: midnight() } as never}>
              {t.allOfThem}
            </Link>
          }
        >
          <ul className="plain">
            {failed.data!.data.map((one) => (
              <li key={one.id}>
                <Link to="/requests/$id" params={{ id: one.call }}>
                  {one.provider}/{one.model}
                </Link>{" "}
                <span className="wrong">{one.status}</span>
              </li>
            ))}
          </ul>
        </Card>
      )}
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
              <li>
                <Link to="/providers">{t.addProvider}</Link>
                {ready.length > 0 && (
                  <span className="soft"> {filled(t.readyNow, { names: ready.map((one) => one.id).join(", ") })}</span>
                )}
              </li>
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
    </Page>
  );
};
