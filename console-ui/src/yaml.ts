// App files as the server reads them: by the rules of YAML 1.1, as PyYAML has them, and so does every program that writes
// such files with it. By those of 1.2 a `yes` would be a text here and true there, and an operator that is written as a
// plain `=` could not be read at all.
import {
  type DocumentOptions,
  type ParseOptions,
  parse,
  parseDocument,
  type Scalar,
  type ScalarTag,
  type SchemaOptions,
  stringify,
  type Tags,
} from "yaml";

type Resolve = (text: string) => unknown;

// A value that was read and not changed is written as it was, whichever of the ways to write it that is.
const sourceOf = ({ source, value }: Scalar): string | undefined => {
  if (typeof source !== "string") return undefined;
  const tag = SCALAR_TAGS.find(({ test }) => test?.test(source));
  return tag && Object.is((tag.resolve as Resolve)(source), value) ? source : undefined;
};

const scalarTag = (
  name: string,
  test: RegExp,
  resolve: Resolve,
  identify: (value: unknown) => boolean,
  textOf: (value: unknown) => string,
): ScalarTag => ({
  tag: `tag:yaml.org,2002:${name}`,
  default: true,
  test,
  resolve,
  identify,
  stringify: (node) => sourceOf(node as Scalar) ?? textOf((node as Scalar).value),
});

const plainNumber = (text: string) => Number(text.replaceAll("_", ""));
// In digits of another base, after a prefix of some characters.
const ofBase = (text: string, base: number, prefixLength: number) => {
  const sign = text.startsWith("-") ? -1 : 1;
  const digits = text.replace(/^[-+]/, "").slice(prefixLength).replaceAll("_", "");
  return sign * Number.parseInt(digits || "0", base);
};
// As in times: hours, minutes and seconds.
const ofSixties = (text: string) => {
  const sign = text.startsWith("-") ? -1 : 1;
  return (
    sign *
    text
      .replace(/^[-+]/, "")
      .split(":")
      .reduce((sum, digits) => sum * 60 + plainNumber(digits), 0)
  );
};
const infinity = (text: string) => (text.startsWith("-") ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY);

const isWhole = (value: unknown) => typeof value === "bigint" || Number.isInteger(value);
const isNumber = (value: unknown) => typeof value === "number";
const never = () => false;

// Whole numbers have all their digits: with an exponent alone they would be read as texts.
const wholeText = (value: unknown) => {
  const text = String(value);
  return text.includes("e") ? BigInt(value as number).toString() : text;
};
// Exponents stand after a decimal point.
const floatText = (value: unknown) => String(value).replace(/^(-?\d+)e/, "$1.0e");
const notFiniteText = (value: unknown) => (Number.isNaN(value) ? ".nan" : (value as number) < 0 ? "-.inf" : ".inf");

const FINITE_TAGS: ScalarTag[] = [
  scalarTag("int", /^[-+]?(?:0|[1-9][0-9_]*)$/, plainNumber, isWhole, wholeText),
  scalarTag("int", /^[-+]?0b[01_]+$/, (text) => ofBase(text, 2, 2), never, wholeText),
  scalarTag("int", /^[-+]?0[0-7_]+$/, (text) => ofBase(text, 8, 1), never, wholeText),
  scalarTag("int", /^[-+]?0x[0-9a-fA-F_]+$/, (text) => ofBase(text, 16, 2), never, wholeText),
  scalarTag("int", /^[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+$/, ofSixties, never, wholeText),
  scalarTag(
    "float",
    /^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?)$/,
    plainNumber,
    (value) => isNumber(value) && Number.isFinite(value),
    floatText,
  ),
  scalarTag("float", /^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*$/, ofSixties, never, floatText),
];

const TRUE = /^(?:yes|Yes|YES|true|True|TRUE|on|On|ON)$/;
const SCALAR_TAGS: ScalarTag[] = [
  scalarTag(
    "null",
    /^(?:~|null|Null|NULL)?$/,
    () => null,
    (value) => value === null || value === undefined,
    () => "null",
  ),
  scalarTag(
    "bool",
    /^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$/,
    (text) => TRUE.test(text),
    (value) => typeof value === "boolean",
    String,
  ),
  ...FINITE_TAGS,
  scalarTag("float", /^[-+]?\.(?:inf|Inf|INF)$/, infinity, isNumber, notFiniteText),
  scalarTag("float", /^\.(?:nan|NaN|NAN)$/, () => Number.NaN, never, notFiniteText),
  // Texts here. They are written in quotes, since they would be dates, or nothing, there.
  scalarTag(
    "timestamp",
    /^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?)?$/,
    String,
    never,
    String,
  ),
  scalarTag("value", /^=$/, String, never, String),
];

// What version 1.1 reads as the end of a line, or not at all; tabs and blanks where a block's indentation is looked for;
// and the mark of merged keys, which is none as a value.
const MUST_BE_ESCAPED = /[\p{Cc}\u2028\u2029\ufeff\p{Cs}]/u;
const TAB_FIRST = /(?:^|\n) *\t/;
const BLANKS_FIRST = /^[ \n]* \n/;
const isRisky = (text: string) =>
  MUST_BE_ESCAPED.test(text.replace(/[\n\t]/g, "")) || TAB_FIRST.test(text) || BLANKS_FIRST.test(text) || text === "<<";

const hexadecimal = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
// Half a character is none: the server would store its replacement.
const escaped = (text: string): string =>
  JSON.stringify(text.replace(/\p{Cs}/gu, "\ufffd")).replace(/[\u007f-\u009f\u2028\u2029\ufeff]/g, hexadecimal);

const asText = (tag: ScalarTag): ScalarTag => ({
  ...tag,
  stringify: (node, ...context) => {
    const { value } = node as Scalar;
    return typeof value === "string" && isRisky(value) ? escaped(value) : tag.stringify!(node, ...context);
  },
});

const STRING = "tag:yaml.org,2002:str";
const COLLECTIONS = ["tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"];
const OPTIONS: ParseOptions & DocumentOptions & SchemaOptions = {
  customTags: (tags: Tags): Tags => [
    ...tags.flatMap((tag) => {
      if (typeof tag !== "object") return [];
      if (tag.tag === STRING) return [asText(tag as ScalarTag)];
      return COLLECTIONS.includes(tag.tag) ? [tag] : [];
    }),
    ...SCALAR_TAGS,
  ],
  merge: true,
};

// Throws if the text is not YAML.
export const readYaml = (text: string): unknown => parse(text, { ...OPTIONS, maxAliasCount: 1000 });

// Without aliases and without lines that are broken: others read these files too.
export const writeYaml = (value: unknown): string =>
  stringify(value, { ...OPTIONS, merge: false, lineWidth: 0, aliasDuplicateObjects: false });

// A document that keeps its comments and its layout. Its errors are listed in it.
export const yamlDocument = (text: string) => parseDocument(text, OPTIONS);
