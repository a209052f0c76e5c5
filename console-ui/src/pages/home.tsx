import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { api, type Usage } from "../api";
import { Trouble } from "../parts";
import { useChosen } from "../settings";
import { filled } from "../words";

const midnight = () => Math.floor(new Date().setHours(0, 0, 0, 0) / 1000);

export const Home = () => {
  const { words, number, money } = useChosen();
  const models = useQuery({ queryKey: ["models"], queryFn: api.models });
  const usage = useQuery({ queryKey: ["usage", "today"], queryFn: () => api.usage(midnight()), refetchInterval: 10_000 });
  const resting = useQuery({ queryKey: ["resting"], queryFn: api.resting, refetchInterval: 10_000 });
  const rows = usage.data ?? [];
  const sum = (pick: (one: Usage) => number) => rows.reduce((total, one) => total + pick(one), 0);
  const count = Object.keys(resting.data ?? {}).length;
  const isPriced = rows.every((one) => one.unpriced === 0);
  const origin = location.origin;
  return (
    <>
      <h1>{words.welcome}</h1>
      <Trouble of={[models, usage, resting]} />
      <p>{words.running} {count ? filled(words.resting, { count }) : words.sayMore}</p>
      <section className="card" aria-labelledby="today">
        <h2 id="today">{words.today}</h2>
        {usage.data && !rows.length && <p>{words.noCalls}</p>}
        {rows.length > 0 && (
          <>
            <dl className="figures">
              <div><dt>{words.calls}</dt><dd>{number(sum((one) => one.calls))}</dd></div>
              <div><dt>{words.failed}</dt><dd>{number(sum((one) => one.failed))}</dd></div>
              <div><dt>{words.tokens}</dt><dd>{number(sum((one) => one.prompt_tokens + one.completion_tokens))}</dd></div>
              <div><dt>{words.cost}</dt><dd>{money(String(sum((one) => Number(one.cost ?? 0))), rows[0]?.currency ?? "USD")}{!isPriced && <small> {words.unpriced}</small>}</dd></div>
            </dl>
            <table>
              <caption>{words.byModel}</caption>
              <thead><tr><th scope="col">{words.model}</th><th scope="col">{words.calls}</th><th scope="col">{words.tokens}</th><th scope="col">{words.cost}</th></tr></thead>
              <tbody>
                {rows.map((one) => (
                  <tr key={one.model}>
                    <th scope="row">{one.model}</th><td>{number(one.calls)}</td>
                    <td>{number(one.prompt_tokens + one.completion_tokens)}</td><td>{one.cost === null ? "?" : money(one.cost, one.currency)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </>
        )}
      </section>
      <section className="card" aria-labelledby="steps">
        <h2 id="steps">{words.firstSteps}</h2>
        <ol>
          <li><Link to="/playground">{words.stepChat}</Link></li>
          <li>{words.stepKey}: {words.stepKeyText} <code>{origin}/v1</code></li>
        </ol>
      </section>
      <section className="card" aria-labelledby="models">
        <h2 id="models">{words.models}</h2>
        <ul className="plain">
          {(models.data ?? []).map((one) => <li key={one.id}><code>{one.id}</code> <span className="soft">{one.model_type}</span></li>)}
        </ul>
      </section>
    </>
  );
};
