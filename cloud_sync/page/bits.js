// Pieces of the views of incidents and records: how sure, filter chips, sentences, hashes, downloads.

import { h, clear, button, badge, ask } from "./dom.js";
import { icon } from "./icons.js";
import { t, has, say, sentence, language, number, bytes } from "./words.js";
import * as api from "./api.js";
import { clockMark, problemBox } from "./parts.js";
import { readable } from "./lanes.js";

const SURE = [[0.9, "very"], [0.75, "quite"], [0.6, "fairly"], [0.4, "little"], [0, "hardly"]];
const SHORT_HASH = 12;

/** How sure the detector is, in one word: the figure is its own scale, no probability. */
export function sure(confidence) {
  const [, word] = SURE.find(([least]) => confidence >= least) || SURE.at(-1);
  return t(`incident.sure.${word}`);
}

/** What the device said, in the language of the page. */
export function told(row) {
  const chinese = language() === "zh" && row.sentence_zh && row.sentence_zh !== row.sentence;
  return h("span", chinese ? {} : { lang: "en" }, sentence(row));
}

/** Under a Chinese rendering: that it is one, and the signed English original. Nothing in English. */
export function original(english, chinese) {
  if (language() !== "zh" || !chinese || chinese === english) return null;
  return h("p", { class: "original" }, h("span", { class: "strong" }, t("incident.translated")), " ",
    h("q", { lang: "en" }, english));
}

/** Said items as a list, their times as people read them. */
export function saidList(items, attrs = {}) {
  if (!items.length) return null;
  return h(attrs.ordered ? "ol" : "ul", { class: attrs.ordered ? "steps" : "sentences" },
    items.map((item) => h("li", {}, say(readable(item)))));
}

/** The mark of replayed or simulated data, large. */
export function bigMark(clock) {
  if (!clock || clock === "live") return null;
  return h("p", { class: "big-mark" }, clockMark(clock), " ", t(`shell.banner.${clock}.text`));
}

/** Toggle chips: items [{key, label, count, tone, icon}], on: Set of pressed keys. */
export function chips(label, items, on, toggled) {
  return h("div", { class: "chips", role: "group", "aria-label": label }, items.map((item) => h("button", {
    type: "button", class: `chip tone-${item.tone || "mute"}`, "aria-pressed": String(on.has(item.key)), data: { key: item.key },
    onclick: () => toggled(item.key),
  }, item.icon ? icon(item.icon) : null, h("span", {}, item.label),
  item.count === undefined ? null : h("span", { class: "count" }, number(item.count)))));
}

/** Calls f once it has not been asked for `ms`; with `.stop()`. */
export function later(f, ms) {
  let timer = null;
  const asked = (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => f(...args), ms);
  };
  asked.stop = () => clearTimeout(timer);
  return asked;
}

/** Calls f `ms` after it is asked for first; what is asked meanwhile is the same call. With `.stop()`. A stream
 *  that never pauses must not put it off for ever. */
export function soon(f, ms) {
  let timer = null;
  const asked = () => {
    if (timer !== null) return;
    timer = setTimeout(() => {
      timer = null;
      f();
    }, ms);
  };
  asked.stop = () => clearTimeout(timer);
  return asked;
}

/** A hash: shortened, whole in its title, with a button that copies it. */
export function hash(text, whole = false) {
  if (!text) return h("span", { class: "none" }, "–");
  return h("span", { class: "hash" }, h("code", { title: text }, whole ? text : `${text.slice(0, SHORT_HASH)}…`),
    copyButton(text));
}

/** A button that copies `text`; it says so. */
export function copyButton(text) {
  const label = h("span", { class: "visually-hidden" }, t("record.copy"));
  const node = h("button", { type: "button", class: "button quiet icon-only no-print", title: t("record.copy"),
    onclick: async () => {
    try {
      await navigator.clipboard.writeText(text);
      label.textContent = t("record.copied");
      node.title = t("record.copied");
    } catch {
      label.textContent = t("record.not_copied");
      node.title = t("record.not_copied");
    }
  } }, icon("copy"), label);
  return node;
}

/** A command to be typed, with a button that copies it. */
export function command(text) {
  return h("div", { class: "command" }, h("pre", {}, h("code", {}, text)), copyButton(text));
}

/** Where the log's record of something stands. */
export function logLink(index) {
  if (index === null || index === undefined) return h("span", { class: "none" }, t("record.log.not_yet"));
  return h("a", { href: `#/log?index=${index}` }, t("record.log.entry", { index: number(index) }));
}

/** Asks for a purpose, fetches a bundle, saves it, then says how to check it. */
export async function exportBundle(path, name, said, node) {
  const purpose = await ask(t("record.export"), {
    label: t("record.purpose"), hint: t("record.purpose.hint"), min: 3, max: 200, intro: said, submit: t("record.export.go"),
  });
  if (purpose === null) return;
  clear(node).append(h("p", { role: "status" }, t("record.export.busy")));
  try {
    const found = await api.file(path, { purpose });
    api.save(found.blob, name);
    clear(node).append(h("div", { class: "stack", role: "status" },
      h("p", { class: "strong" }, t("record.export.done", { name, size: bytes(found.blob.size) })), verifyHelp(name)));
  } catch (error) {
    clear(node).append(problemBox(error));
  }
}

/** How to check a bundle offline. */
export function verifyHelp(name) {
  return h("div", { class: "stack" }, h("p", {}, t("record.verify.how")), command(`holdfast verify ${name} --trust trust.json`),
    h("p", { class: "hint" }, t("record.verify.trust"), " ",
      h("a", { href: "/api/v1/log/trust", download: "trust.json" }, icon("download"), " trust.json")));
}

/** "Show more" below a list: asks `more()` until nothing follows. */
export function pager(shown, total, next, more) {
  if (!total) return null;
  const box = h("div", { class: "pager" });
  const count = h("span", { class: "sub" }, t("record.shown", { n: number(shown), total: number(total) }));
  box.append(count);
  if (next) box.append(button(t("record.more"), more, { icon: "down" }));
  return box;
}

/** A word for a code of another part, or the code itself with its underscores opened. */
export function wordOf(prefix, code) {
  return has(`${prefix}.${code}`) ? t(`${prefix}.${code}`) : String(code).replace(/_/g, " ");
}

/** Yes or no with sign and word. */
export function yesNo(good, yes, no) {
  return good ? badge(yes, "good", "ok") : badge(no, "bad", "warning");
}


/** A map of a track below `node`, oldest place first; null where there is nothing to show or no map. */
export async function placeMap(node, ctx, track, label) {
  if (!track.length) return null;
  const box = h("div", { class: "small-map no-print" });
  node.append(box);
  try {
    const { trackMap } = await import("./map.js");
    const note = h("p", { class: "hint map-key no-print" }, h("span", {}, t("fleet.map.doubt")));
    const places = h("span", { class: "places-key", hidden: true }, t("fleet.map.places"));
    note.append(places);
    node.append(note);
    const onPlaces = (count) => {
      places.hidden = count === 0;
    };
    return await trackMap(box, ctx, track, { label, onPlaces });
  } catch {
    node.querySelector(":scope > .map-key")?.remove();
    box.remove();
    return null;
  }
}
