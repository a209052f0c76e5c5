import { createContext, type ReactNode, useContext, useEffect, useMemo, useState } from "react";
import { LANGUAGES, type Language, WORDS, type Words } from "./words";

export type Theme = "system" | "light" | "dark";
interface Chosen {
  language: Language;
  theme: Theme;
  t: Words;
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

const Context = createContext<Chosen | null>(null);

const kept = <T extends string>(name: string, known: readonly T[], otherwise: T): T => {
  const found = localStorage.getItem(`modelyard.${name}`) as T | null;
  return found && known.includes(found) ? found : otherwise;
};

export const Chooses = ({ children }: { children: ReactNode }) => {
  const [language, setLanguage] = useState<Language>(() =>
    kept("language", ["en", "zh"], navigator.language.startsWith("zh") ? "zh" : "en"),
  );
  const [theme, setTheme] = useState<Theme>(() => kept("theme", ["system", "light", "dark"], "system"));
  const { tag } = LANGUAGES[language];
  useEffect(() => {
    document.documentElement.lang = tag;
    localStorage.setItem("modelyard.language", language);
  }, [language, tag]);
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("modelyard.theme", theme);
  }, [theme]);
  const value = useMemo<Chosen>(
    () => ({
      language,
      theme,
      t: WORDS[language],
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
    [language, theme, tag],
  );
  return <Context value={value}>{children}</Context>;
};

export const useChosen = (): Chosen => {
  const found = useContext(Context);
  if (!found) throw new Error("outside of Chooses");
  return found;
};

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
