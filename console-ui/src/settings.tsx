import { createContext, type ReactNode, useContext, useEffect, useMemo, useState } from "react";
import { browserStorage } from "./browser-storage";
import { type CommonWords, LANGUAGES, type Language } from "./languages";
import type { Words } from "./messages";

export type Theme = "system" | "light" | "dark";
export interface Chosen<W = Words> {
  language: Language;
  theme: Theme;
  t: W;
  setLanguage: (language: Language) => void;
  setTheme: (theme: Theme) => void;
  number: (value: number, maxDigits?: number) => string;
  money: (value: string | number | null | undefined, currency: string) => string;
  time: (seconds: number) => string;
  day: (seconds: number) => string;
  weekday: (sinceMonday: number) => string;
  bytes: (count: number) => string;
  span: (seconds: number) => string;
  // A label as the server has it, in English and maybe in Chinese.
  label: (texts: { en_US: string; zh_Hans?: string | null } | null | undefined) => string;
}

const Context = createContext<Chosen<CommonWords> | null>(null);

const known = <T extends string>(value: string | null | undefined, all: readonly T[]): T | undefined =>
  all.find((candidate) => candidate === value);
const LANGUAGE_NAMES = Object.keys(LANGUAGES) as Language[];
const THEMES: readonly Theme[] = ["system", "light", "dark"];
const ofBrowser = (): Language => (navigator.language.startsWith("zh") ? "zh" : "en");

// `words`: all that the page says, in each language. `requestedLanguage`: a language that the page's address names.
export const Chooses = ({
  words,
  requestedLanguage,
  children,
}: {
  words: Record<Language, CommonWords>;
  requestedLanguage?: string | null;
  children: ReactNode;
}) => {
  const [language, setLanguage] = useState<Language>(
    () =>
      known(requestedLanguage, LANGUAGE_NAMES) ??
      known(browserStorage.get("modelyard.language"), LANGUAGE_NAMES) ??
      ofBrowser(),
  );
  const [theme, setTheme] = useState<Theme>(() => known(browserStorage.get("modelyard.theme"), THEMES) ?? "system");
  const { tag } = LANGUAGES[language];
  useEffect(() => {
    document.documentElement.lang = tag;
    browserStorage.set("modelyard.language", language);
  }, [language, tag]);
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    browserStorage.set("modelyard.theme", theme);
  }, [theme]);
  const value = useMemo<Chosen<CommonWords>>(
    () => ({
      language,
      theme,
      t: words[language],
      setLanguage,
      setTheme,
      number: (value, maxDigits = 2) => new Intl.NumberFormat(tag, { maximumFractionDigits: maxDigits }).format(value),
      money: (amount, currency) =>
        amount === null || amount === undefined
          ? "?"
          : new Intl.NumberFormat(tag, {
              style: "currency",
              currency: currency || "USD",
              maximumFractionDigits: Math.abs(Number(amount)) < 1 ? 6 : 2,
            }).format(Number(amount)),
      time: (seconds) =>
        new Intl.DateTimeFormat(tag, { dateStyle: "medium", timeStyle: "medium" }).format(seconds * 1000),
      day: (seconds) => new Intl.DateTimeFormat(tag, { dateStyle: "medium" }).format(seconds * 1000),
      // 1 January 2024 was a Monday.
      weekday: (sinceMonday) =>
        new Intl.DateTimeFormat(tag, { weekday: "short", timeZone: "UTC" }).format(Date.UTC(2024, 0, 1 + sinceMonday)),
      bytes: (count) =>
        new Intl.NumberFormat(tag, {
          notation: "compact",
          style: "unit",
          unit: "byte",
          unitDisplay: "narrow",
          maximumFractionDigits: 1,
        }).format(count),
      span: (seconds) =>
        new Intl.NumberFormat(tag, {
          style: "unit",
          unit: seconds < 1 ? "millisecond" : seconds < 120 ? "second" : seconds < 7200 ? "minute" : "hour",
          maximumFractionDigits: seconds < 0.01 ? 1 : seconds < 1 ? 0 : 2,
        }).format(
          seconds < 1 ? seconds * 1000 : seconds < 120 ? seconds : seconds < 7200 ? seconds / 60 : seconds / 3600,
        ),
      label: (texts) => (language === "zh" && texts?.zh_Hans) || texts?.en_US || "",
    }),
    [language, theme, tag, words],
  );
  return <Context value={value}>{children}</Context>;
};

// Each page gave `Chooses` its own words, which are more than what all pages share.
export const useWordsOf = <W extends CommonWords>(): Chosen<W> => {
  const chosen = useContext(Context);
  if (!chosen) throw new Error("outside of Chooses");
  return chosen as Chosen<W>;
};
export const useChosen = () => useWordsOf<Words>();
export const useCommon = () => useWordsOf<CommonWords>();

// Kept over a reload, for this tab; what somebody was writing is not lost.
export const useKept = <T,>(name: string, first: T): [T, (value: T | ((before: T) => T)) => void] => {
  const key = `modelyard.${name}`;
  const [value, set] = useState<T>(() => {
    try {
      const stored = sessionStorage.getItem(key);
      return stored === null ? first : (JSON.parse(stored) as T);
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
