import { createContext, type ReactNode, useContext, useEffect, useMemo, useState } from "react";
import { kept } from "./browser-storage";
import { type CommonWords, LANGUAGES, type Language } from "./languages";
import type { Words } from "./messages";

export type Theme = "system" | "light" | "dark";
export interface Chosen<W = Words> {
  language: Language;
  theme: Theme;
  t: W;
  setLanguage: (one: Language) => void;
  setTheme: (one: Theme) => void;
  number: (value: number, most?: number) => string;
  money: (value: string | number | null | undefined, currency: string) => string;
  time: (seconds: number) => string;
  day: (seconds: number) => string;
  weekday: (sinceMonday: number) => string;
  bytes: (count: number) => string;
  span: (seconds: number) => string;
  // A label as the server has it, in English and maybe in Chinese.
  label: (one: { en_US: string; zh_Hans?: string | null } | null | undefined) => string;
}

const Context = createContext<Chosen<CommonWords> | null>(null);

const known = <T extends string>(value: string | null | undefined, all: readonly T[]): T | undefined =>
  all.find((each) => each === value);
const LANGUAGE_NAMES = Object.keys(LANGUAGES) as Language[];
const THEMES: readonly Theme[] = ["system", "light", "dark"];
const ofBrowser = (): Language => (navigator.language.startsWith("zh") ? "zh" : "en");

// `words`: all that the page says, in each language. `asked`: a language that the page's address names.
export const Chooses = ({
  words,
  asked,
  children,
}: {
  words: Record<Language, CommonWords>;
  asked?: string | null;
  children: ReactNode;
}) => {
  const [language, setLanguage] = useState<Language>(
    () => known(asked, LANGUAGE_NAMES) ?? known(kept.get("modelyard.language"), LANGUAGE_NAMES) ?? ofBrowser(),
  );
  const [theme, setTheme] = useState<Theme>(() => known(kept.get("modelyard.theme"), THEMES) ?? "system");
  const { tag } = LANGUAGES[language];
  useEffect(() => {
    document.documentElement.lang = tag;
    kept.set("modelyard.language", language);
  }, [language, tag]);
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    kept.set("modelyard.theme", theme);
  }, [theme]);
  const value = useMemo<Chosen<CommonWords>>(
    () => ({
      language,
      theme,
      t: words[language],
      setLanguage,
      setTheme,
      number: (one, most = 2) => new Intl.NumberFormat(tag, { maximumFractionDigits: most }).format(one),
      money: (one, currency) =>
        one === null || one === undefined
          ? "?"
          : new Intl.NumberFormat(tag, {
              style: "currency",
              currency: currency || "USD",
              maximumFractionDigits: Math.abs(Number(one)) < 1 ? 6 : 2,
            }).format(Number(one)),
      time: (one) => new Intl.DateTimeFormat(tag, { dateStyle: "medium", timeStyle: "medium" }).format(one * 1000),
      day: (one) => new Intl.DateTimeFormat(tag, { dateStyle: "medium" }).format(one * 1000),
      // 1 January 2024 was a Monday.
      weekday: (one) =>
        new Intl.DateTimeFormat(tag, { weekday: "short", timeZone: "UTC" }).format(Date.UTC(2024, 0, 1 + one)),
      bytes: (one) =>
        new Intl.NumberFormat(tag, {
          notation: "compact",
          style: "unit",
          unit: "byte",
          unitDisplay: "narrow",
          maximumFractionDigits: 1,
        }).format(one),
      span: (one) =>
        new Intl.NumberFormat(tag, {
          style: "unit",
          unit: one < 1 ? "millisecond" : one < 120 ? "second" : one < 7200 ? "minute" : "hour",
          maximumFractionDigits: one < 0.01 ? 1 : one < 1 ? 0 : 2,
        }).format(one < 1 ? one * 1000 : one < 120 ? one : one < 7200 ? one / 60 : one / 3600),
      label: (one) => (language === "zh" && one?.zh_Hans) || one?.en_US || "",
    }),
    [language, theme, tag, words],
  );
  return <Context value={value}>{children}</Context>;
};

// Each page gave `Chooses` its own words, which are more than what all pages share.
export const useWordsOf = <W extends CommonWords>(): Chosen<W> => {
  const found = useContext(Context);
  if (!found) throw new Error("outside of Chooses");
  return found as Chosen<W>;
};
export const useChosen = () => useWordsOf<Words>();
export const useCommon = () => useWordsOf<CommonWords>();

// Kept over a reload, for this tab; what somebody was writing is not lost.
export const useKept = <T,>(name: string, first: T): [T, (value: T | ((before: T) => T)) => void] => {
  const key = `modelyard.${name}`;
  const [value, set] = useState<T>(() => {
    try {
      const found = sessionStorage.getItem(key);
      return found === null ? first : (JSON.parse(found) as T);
    } catch {
      return first;
    }
  });
  useEffect(() => {
    try {
      sessionStorage.setItem(key, JSON.stringify(value));
    } catch {
      /* too large to keep: it stays while the page does */
    }
  }, [key, value]);
  return [value, set];
};
