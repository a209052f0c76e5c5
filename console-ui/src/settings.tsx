import { createContext, type ReactNode, useContext, useEffect, useMemo, useState } from "react";
import { LANGUAGES, type Language, type Words } from "./words";

interface Chosen { language: Language; words: Words; setLanguage: (one: Language) => void; number: (value: number) => string; money: (value: string, currency: string) => string }

const Context = createContext<Chosen | null>(null);

const first = (): Language => {
  const kept = localStorage.getItem("modelyard.language");
  if (kept === "en" || kept === "zh") return kept;
  return navigator.language.startsWith("zh") ? "zh" : "en";
};

export const Chooses = ({ children }: { children: ReactNode }) => {
  const [language, setLanguage] = useState<Language>(first);
  const { tag, words } = LANGUAGES[language];
  useEffect(() => {
    document.documentElement.lang = tag;
    localStorage.setItem("modelyard.language", language);
  }, [language, tag]);
  const value = useMemo<Chosen>(() => ({
    language, words, setLanguage,
    number: (one) => new Intl.NumberFormat(tag).format(one),
    money: (one, currency) => new Intl.NumberFormat(tag, { style: "currency", currency, maximumFractionDigits: 4 }).format(Number(one)),
  }), [language, tag, words]);
  return <Context value={value}>{children}</Context>;
};

export const useChosen = (): Chosen => {
  const found = useContext(Context);
  if (!found) throw new Error("outside of Chooses");
  return found;
};
