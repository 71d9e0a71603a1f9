// Pieces that several views share: states, causes, places, problems, each with sign and word.

import { h, badge, button, clear } from "./dom.js";
import { icon } from "./icons.js";
import { t, has, say, number, language, length } from "./words.js";
import * as time from "./time.js";

/** Tone and sign of each state of a vehicle, the worst first. */
export const VEHICLE_STATES = {
  incident: ["bad", "incident"],
  overdue: ["warn", "overdue"],
  attention: ["note", "attention"],
  ok: ["good", "ok"],
};
const CASE_STATES = {
  open: ["bad", "incident"],
  escalated: ["bad", "escalate"],
  acknowledged: ["warn", "check"],
  assigned: ["warn", "user"],
  confirmed: ["bad", "incident"],
  refuted: ["good", "close"],
  closed: ["mute", "ok"],
};
const TITLE_STATES = {
  FREE: ["good", "unlock"],
  PROPOSED: ["note", "titles"],
  PLEDGED: ["mute", "lock"],
  ALERT: ["bad", "incident"],
  DEFAULT: ["bad", "warning"],
  DISPOSAL: ["warn", "titles"],
};

/** Names for select boxes and filters. */
export const CAUSES = ["moved_without_wheels", "removed_or_opened", "left_region", "jammed", "silent"];
export const CASES = Object.keys(CASE_STATES);

/** State of a vehicle. */
export function vehicleState(state) {
  const [tone, sign] = VEHICLE_STATES[state] || ["mute", "question"];
  return badge(t(`shell.vehicle.${state}`), tone, sign);
}

/** State of an incident. */
export function caseState(state) {
  const [tone, sign] = CASE_STATES[state] || ["mute", "question"];
  return badge(t(`shell.case.${state}`), tone, sign);
}

/** State of a title; nothing where a vehicle has none. */
export function titleState(state) {
  if (!state) return h("span", { class: "none" }, t("shell.title.none"));
  const [tone, sign] = TITLE_STATES[state] || ["mute", "titles"];
  return badge(has(`shell.title.${state}`) ? t(`shell.title.${state}`) : state, tone, sign);
}

/** Large mark on replayed and simulated data; nothing on live data. */
export function clockMark(clock) {
  if (!clock || clock === "live") return null;
  return badge(t(`shell.clock.${clock}`), "replay", "info", { class: "clock-mark" });
}

/** What an incident is about, in words. */
export function cause(name) {
  return t(`shell.cause.${name}`);
}

/** A coarse place: "Riverside depot, 1.2 km away"; else "53.35, 13.08 (about 1 km)". */
export function placeText(place) {
  if (!place) return t("shell.place.none");
  if (place.name && !place.distance_m) return place.name;
  if (place.name) return t("shell.place.near", { name: place.name, distance: length(place.distance_m) });
  return coordinates(place);
}

/** Coordinates of a coarse place: two decimals, and that they are no better than that. */
export function coordinates(place) {
  return t("shell.place.coarse", { lat: place.lat.toFixed(2), lon: place.lon.toFixed(2) });
}

/** Sentences of {code, params} as a list; nothing for none. */
export function sentences(items, attrs = {}) {
  if (!items || !items.length) return null;
  return h("ul", { class: "sentences", ...attrs }, items.map((item) => h("li", {}, say(item))));
}

/** Percent of 0 .. 1. */
export function percent(value) {
  return `${number(value * 100)} %`;
}

/** Words for a problem: [title, what to do]. */
export function problemWords(error) {
  const code = error && error.code;
  const known = code && has(`problem.${code}`) ? t(`problem.${code}`)
    : code && has(`shell.problem.${code}`) ? t(`shell.problem.${code}`) : null;
  const remedy = code && has(`problem.${code}.remedy`) ? t(`problem.${code}.remedy`)
    : code && has(`shell.problem.${code}.remedy`) ? t(`shell.problem.${code}.remedy`) : error.remedy || "";
  if (known) return [known, remedy];
  if (error && error.title) return [error.title, remedy];
  return [t("shell.problem.unknown", { what: (error && error.message) || "" }), remedy];
}

// Refusals whose reason only the server knows: which rule, which field, how long to wait.
const WITH_REASON = new Set([400, 403, 409, 422, 429]);

/** The server's own reason for a refusal, which is English; null where it says no more than the words do. */
export function reason(error) {
  if (!error || !error.detail || (!WITH_REASON.has(error.status) && has(`problem.${error.code}`))) return null;
  if (language() !== "zh") return h("p", { class: "reason" }, `${error.detail[0].toUpperCase()}${error.detail.slice(1)}`);
  return h("p", { class: "reason" }, t("shell.problem.reason"), " ", h("q", { lang: "en" }, error.detail));
}

/** What went wrong, the server's reason, what to do: the lines of a box. */
export function problemLines(error) {
  const [what, remedy] = problemWords(error);
  return [h("p", { class: "strong" }, what), reason(error), remedy ? h("p", {}, remedy) : null];
}

/** A box which says what went wrong and what to do, with "try again" where that may help. */
export function problemBox(error, retry = null) {
  const lasting = error && (error.status === 403 || error.status === 404);
  return h("div", { class: "notice bad", role: "alert" }, icon("warning"), h("div", {},
    problemLines(error),
    retry && !lasting ? button(t("shell.retry"), retry, { icon: "refresh" }) : null));
}

/** A box for an empty list: what it means and what to do. */
export function emptyBox(title, text, action = null) {
  return h("div", { class: "empty" }, icon("info"), h("p", { class: "strong" }, title),
    text ? h("p", {}, text) : null, action);
}

/** While something loads. */
export function loading() {
  return h("p", { class: "loading", role: "status" }, t("shell.loading"));
}

/** The head of a view: its title (h1), a line below it, buttons at the end. */
export function head(title, sub = null, actions = []) {
  return h("div", { class: "view-head" },
    h("div", {}, h("h1", { tabindex: "-1" }, title), sub ? h("p", { class: "sub" }, sub) : null),
    h("div", { class: "actions no-print" }, actions));
}

/** A section with its heading. */
export function section(title, ...children) {
  return h("section", { class: "card" }, h("h2", {}, title), children);
}

/** "Print" as a button. */
export function printButton() {
  return button(t("shell.print"), () => window.print(), { kind: "quiet", icon: "print" });
}

/** Runs load() into `node`: loading, then what it gives, or the problem with a way to try again. */
export async function into(node, load) {
  clear(node).append(loading());
  try {
    const made = await load();
    clear(node);
    if (made) node.append(...[made].flat());
  } catch (error) {
    if (error.name === "AbortError") return;
    clear(node).append(problemBox(error, () => into(node, load)));
  }
}

/** Age of a time in a sentence: "2 min ago". */
export function age(iso) {
  return time.agoNode(iso);
}
