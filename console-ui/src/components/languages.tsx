import { LANGUAGES, type Language } from "../languages";
import { useCommon } from "../settings";

export const LanguagePick = () => {
  const { language, setLanguage, t } = useCommon();
  return (
    <select aria-label={t.language} value={language} onChange={(event) => setLanguage(event.target.value as Language)}>
      {Object.entries(LANGUAGES).map(([name, language]) => (
        <option key={name} value={name}>
          {language.label}
        </option>
      ))}
    </select>
  );
};
