// Times for people. "Now" is the server's: each answer carries it, and between answers the monotonic clock of
// the page counts on. The wall clock of the browser is never asked, so it may be wrong by a year.

import { h } from "./dom.js";
import { t, language } from "./words.js";

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

let serverMs = null;
let heardAt = 0;
let chosenZone = null;
const formats = new Map();

/** Takes over the server's `now` (ISO 8601). */
export function sync(iso) {
  const ms = Date.parse(iso);
  if (Number.isNaN(ms)) return;
  serverMs = ms;
  heardAt = performance.now();
}

/** The server's time now, milliseconds since 1970; null before it was heard for the first time. */
export function nowMs() {
  return serverMs === null ? null : serverMs + (performance.now() - heardAt);
}

/** The time zone in which times are shown. */
export function zone() {
  if (chosenZone) return chosenZone;
  let kept = null;
  try {
    kept = localStorage.getItem("holdfast.zone");
  } catch { /* nothing is remembered then */ }
  chosenZone = valid(kept) ? kept : Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  return chosenZone;
}

/** Chooses it, by IANA name. */
export function setZone(name) {
  if (!valid(name)) return;
  chosenZone = name;
  formats.clear();
  try {
    localStorage.setItem("holdfast.zone", name);
  } catch { /* see above */ }
}

/** Names to choose from. */
export function zones() {
  const known = typeof Intl.supportedValuesOf === "function" ? Intl.supportedValuesOf("timeZone") : [];
  return [...new Set(["UTC", zone(), ...known])];
}

function valid(name) {
  if (!name) return false;
  try {
    new Intl.DateTimeFormat("en", { timeZone: name });
    return true;
  } catch {
    return false;
  }
}

function format(kind, options) {
  const key = `${language()} ${kind}`;
  if (!formats.has(key)) {
    formats.set(key, new Intl.DateTimeFormat(language() === "zh" ? "zh-CN" : "en-GB",
      { timeZone: zone(), hourCycle: "h23", ...options }));
  }
  return formats.get(key);
}

const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit" };

function dayOf(ms) {
  return format("day", { year: "numeric", month: "2-digit", day: "2-digit" }).format(ms);
}

/** "03:12:07", with the date before it unless it is today ("auto", the default), always or never. */
export function at(iso, date = "auto") {
  const ms = Date.parse(iso);
  if (iso === null || iso === undefined || Number.isNaN(ms)) return "–";
  const clock = format("clock", CLOCK).format(ms);
  const now = nowMs();
  if (date === "never" || (date === "auto" && now !== null && dayOf(ms) === dayOf(now))) return clock;
  return `${day(iso)} ${clock}`;
}

/** "25 Nov 2026" */
export function day(iso) {
  const ms = Date.parse(iso);
  if (iso === null || iso === undefined || Number.isNaN(ms)) return "–";
  return format("date", { year: "numeric", month: "short", day: "numeric" }).format(ms);
}

/** "November 2026" of "2026-11": months of records are months in UTC. */
export function month(text) {
  return new Intl.DateTimeFormat(language() === "zh" ? "zh-CN" : "en-GB",
    { timeZone: "UTC", year: "numeric", month: "long" }).format(Date.parse(`${text}-01T00:00:00Z`));
}

/** Half-width of an uncertainty: "± 2 s". */
export function plusMinus(ms) {
  if (ms < 995) return `± ${Math.max(1, Math.round(ms))} ms`;
  if (ms < 2 * MINUTE) return `± ${Math.round(ms / SECOND)} s`;
  if (ms < 2 * HOUR) return `± ${Math.round(ms / MINUTE)} min`;
  return `± ${Math.round(ms / HOUR)} h`;
}

/** A time with its error bars as text: "03:12:07 ± 2 s"; "received 03:12:07" where only the receipt is known. */
export function moment(value, date = "auto") {
  if (!value) return "–";
  const clock = at(value.at, date);
  if (value.unc_ms === null || value.unc_ms === undefined) return t("shell.time.received", { at: clock });
  return `${clock} ${plusMinus(value.unc_ms)}`;
}

/** The same as <time>, with zone and source in its title. */
export function momentNode(value, date = "auto") {
  if (!value) return h("span", { class: "none" }, "–");
  return h("time", { datetime: value.at, class: "moment",
    title: `${at(value.at, "always")} ${zone()} · ${t(`shell.time.source.${value.source || "received"}`)}` },
  moment(value, date));
}

/** A plain time as <time>. */
export function atNode(iso, date = "auto") {
  if (!iso) return h("span", { class: "none" }, "–");
  return h("time", { datetime: iso, title: `${at(iso, "always")} ${zone()}` }, at(iso, date));
}

/** A span in words: "3 min", "2 h", "5 days". */
export function duration(ms) {
  const size = Math.abs(ms);
  if (size < 90 * SECOND) return t("shell.time.s", { n: Math.round(size / SECOND) });
  if (size < 90 * MINUTE) return t("shell.time.min", { n: Math.round(size / MINUTE) });
  if (size < 36 * HOUR) return t("shell.time.h", { n: Math.round(size / HOUR) });
  return t("shell.time.d", { n: Math.round(size / DAY) });
}

/** Whole minutes in words: "less than a minute", "8 min", "3 h", "5 days". */
export function minutes(count) {
  return count < 1 ? t("shell.time.under_a_minute") : count < 2 ? t("shell.time.min", { n: 1 }) : duration(count * MINUTE);
}

/** "3 min ago" or "in 2 h", against the server's clock. */
export function ago(iso) {
  const ms = Date.parse(iso);
  const now = nowMs();
  if (iso === null || iso === undefined || Number.isNaN(ms) || now === null) return "–";
  const past = now - ms;
  if (Math.abs(past) < 5 * SECOND) return t("shell.time.now");
  return t(past > 0 ? "shell.time.ago" : "shell.time.in", { span: duration(past) });
}

/** The same as <time>, kept up to date; the exact time is in its title. */
export function agoNode(iso) {
  if (!iso) return h("span", { class: "none" }, t("shell.time.never"));
  return h("time", { datetime: iso, class: "ago", data: { ago: iso }, title: `${at(iso, "always")} ${zone()}` },
    ago(iso));
}

/** Refreshes every agoNode of the page; the shell calls it twice a minute. */
export function refresh(root = document) {
  for (const node of root.querySelectorAll("time[data-ago]")) {
    const text = ago(node.dataset.ago);
    if (node.textContent !== text) node.textContent = text;
  }
}
