// Sentences in English and Chinese: a code with parameters becomes a text. The same rules as on the server:
// `code.one` where the parameter n is 1, a dash for a missing value, the code itself where there is no text.

import * as time from "./time.js";

const LANGUAGES = ["en", "zh"];
let current = "en";
let texts = {};

/** Languages the page speaks. */
export function languages() {
  return LANGUAGES;
}

/** The language of the page now. */
export function language() {
  return current;
}

/** What to begin with: last time's choice, else the browser's. */
export function preferred() {
  let kept = null;
  try {
    kept = localStorage.getItem("holdfast.language");
  } catch { /* storage is switched off: then nothing is remembered */ }
  if (LANGUAGES.includes(kept)) return kept;
  return (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en";
}

/** Loads the texts of a language and makes it the page's. */
export async function load(name) {
  const wanted = LANGUAGES.includes(name) ? name : "en";
  const answer = await fetch(`/words/${wanted}.json`, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(`/words/${wanted}.json: ${answer.status}`);
  texts = await answer.json();
  current = wanted;
  document.documentElement.lang = wanted === "zh" ? "zh-Hans" : "en";
  try {
    localStorage.setItem("holdfast.language", wanted);
  } catch { /* see above */ }
}

/** Whether there is a text for this code. */
export function has(code) {
  return Object.hasOwn(texts, code);
}

/** The text of a code. */
export function t(code, params = {}) {
  let text = has(code) ? texts[code] : code;
  if (Number(params.n) === 1 && has(`${code}.one`)) text = texts[`${code}.one`];
  return text.replace(/\{([a-z_]+)\}/g, (_, name) => {
    const value = params[name];
    return value === null || value === undefined ? "–" : String(value);
  });
}

// Parameters whose value is a name of the API: shown in words.
const NAMED = {
  cause: (name) => `shell.cause.${name}`,
  clock: (name) => `shell.clock.${name}`,
  source: (name) => `shell.time.source.${name}`,
  state: (name) => `shell.title.${name}`,
};

/** The form of a sentence for its figures: `.at` where it is no distance away, `.now` where it is no minute old. */
function formOf(code, params) {
  const near = "distance" in params && !params.distance && has(`${code}.at`) ? `${code}.at` : code;
  return params.minutes === 0 && has(`${near}.now`) ? `${near}.now` : near;
}

const ISO = /^\d{4}-\d\d-\d\dT[\d:.]+Z$/;

/** The text of {code, params} as the API sends it, its names and times as people read them. */
export function say(said) {
  if (!said) return "";
  const params = { ...(said.params || {}) };
  for (const [name, code] of Object.entries(NAMED)) {
    if (typeof params[name] === "string" && has(code(params[name]))) params[name] = t(code(params[name]));
  }
  for (const [name, value] of Object.entries(params)) {
    if (ISO.test(value)) params[name] = time.at(value, "always");
  }
  const code = formOf(said.code, params);
  if (typeof params.minutes === "number") params.minutes = time.minutes(params.minutes);
  if (typeof params.distance === "number") params.distance = length(params.distance);
  return t(code, params);
}

/** The sentence of a device in the language of the page: the signed English one, or its Chinese rendering. */
export function sentence(row, key = "sentence") {
  return current === "zh" && row[`${key}_zh`] ? row[`${key}_zh`] : row[key];
}

/** A number for people. */
export function number(value, digits = 0) {
  if (value === null || value === undefined) return "–";
  return new Intl.NumberFormat(current === "zh" ? "zh-CN" : "en-GB",
    { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

/** A length for people: "300 m", "1.2 km". */
export function length(metres) {
  if (metres < 1000) return t("shell.unit.m", { n: number(metres) });
  return t("shell.unit.km", { n: number(metres / 1000, metres < 10_000 ? 1 : 0) });
}

/** A size in bytes for people. */
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = value;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${number(size, unit === 0 || size >= 100 ? 0 : 1)} ${units[unit]}`;
}
