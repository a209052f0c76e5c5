import { LANGUAGES, type Language } from "../languages";
import { useCommon } from "../settings";

export const LanguagePick = () => {
  const { language, setLanguage, t } = useCommon();
  return (
    <select aria-label={t.language} value={language} onChange={(event) => setLanguage(event.target.value as Language)}>
      {Object.entries(LANGUAGES).map(([name, one]) => (
        <option key={name} value={name}>
          {one.label}
        </option>
      ))}
    </select>
  );
};
