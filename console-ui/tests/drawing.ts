// Components as they are drawn first, without a browser: with the answers that their queries have, or none yet.
import { QueryClient, QueryClientProvider, type QueryKey } from "@tanstack/react-query";
import { createMemoryHistory, createRootRoute, createRouter, RouterContextProvider } from "@tanstack/react-router";
import { createElement, type ReactNode } from "react";
import { renderToStaticMarkup } from "react-dom/server";
import { WORDS } from "../src/messages";
import { Chooses } from "../src/settings";

export const T = WORDS.en;

export interface Answers {
  // What queries have been answered, by their keys.
  data?: [QueryKey, unknown][];
  errors?: [QueryKey, Error][];
}

const clientWith = ({ data = [], errors = [] }: Answers): QueryClient => {
  // An answer that is there is not asked for again; an error stays one.
  const client = new QueryClient({
    defaultOptions: { queries: { staleTime: Number.POSITIVE_INFINITY, retryOnMount: false } },
  });
  for (const [key, value] of data) client.setQueryData(key, value);
  for (const [queryKey, error] of errors)
    client.getQueryCache().build(client, { queryKey }).setState({ status: "error", error, fetchStatus: "idle" });
  return client;
};

export const draw = (element: ReactNode, answers: Answers = {}): string => {
  const router = createRouter({ routeTree: createRootRoute(), history: createMemoryHistory() });
  // biome-ignore-start lint/correctness/noChildrenProp: their types require them among the properties
  const chosen = createElement(Chooses, { words: WORDS, requestedLanguage: "en", children: element });
  const routed = createElement(RouterContextProvider, { router: router as never, children: chosen });
  // biome-ignore-end lint/correctness/noChildrenProp: their types require them among the properties
  return renderToStaticMarkup(createElement(QueryClientProvider, { client: clientWith(answers) }, routed));
};
