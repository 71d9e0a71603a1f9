// Titles: who holds a lien on what, in which state, and how it came there.

import { h, clear, field, pairs, table } from "./dom.js";
import { icon } from "./icons.js";
import { t, number } from "./words.js";
import * as api from "./api.js";
import * as time from "./time.js";
import { emptyBox, head, loading, printButton, problemBox, section, titleState } from "./parts.js";
import { chips, hash, later, logLink, pager, soon, wordOf } from "./bits.js";

const STATES = ["ALERT", "DEFAULT", "DISPOSAL", "PROPOSED", "PLEDGED", "FREE"];
const TONES = { ALERT: "bad", DEFAULT: "bad", DISPOSAL: "warn", PROPOSED: "note", PLEDGED: "mute", FREE: "good" };
const PAGE = 50;
const TYPING_MS = 300;
const AGAIN_AFTER_MS = 1000;

/** The views: #/titles?state=&q= and #/title/<token> */
export function show(main, ctx, params) {
  return params.name === "title" ? one(main, ctx, params.token) : all(main, ctx, params.query);
}

const short = (token) => `${token.slice(0, 12)}…`;

function lockNode(locked) {
  return h("span", { class: "row tight" }, icon(locked ? "lock" : "unlock"),
    h("span", {}, t(locked ? "record.title.locked" : "record.title.unlocked")));
}

function devicesNode(devices) {
  if (!devices.length) return h("span", { class: "none" }, t("record.title.no_device"));
  return h("span", {}, devices.map((device, index) => [index ? ", " : "", h("a",
    { href: `#/vehicle/${encodeURIComponent(device)}` }, device)]));
}

async function all(main, ctx, query) {
  const filter = { state: new Set(query.getAll("state").filter((state) => STATES.includes(state))), q: query.get("q") || "" };
  const list = h("div", { class: "stack" });
  const chipBox = h("div", {});
  let rows = [];
  let latest = null;

  async function load(cursor = null) {
    const mine = Symbol("load");
    latest = mine;
    try {
      const found = await api.get("titles", { state: [...filter.state], q: filter.q, limit: PAGE, cursor },
        { signal: ctx.signal });
      if (latest !== mine) return;
      const before = cursor ? rows.length : 0;
      rows = cursor ? rows.concat(found.items) : found.items;
      draw(found, before);
    } catch (error) {
      if (error.name !== "AbortError" && latest === mine) clear(list).append(problemBox(error, () => load()));
    }
  }

  function draw(found, before) {
    const key = chipBox.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    clear(chipBox).append(chips(t("record.title.by_state"), STATES.map((state) => ({
      key: state, label: t(`shell.title.${state}`), count: found.counts[state] || 0, tone: TONES[state],
    })), filter.state, (state) => {
      if (!filter.state.delete(state)) filter.state.add(state);
      changed();
    }));
    if (key) chipBox.querySelector(`[data-key="${key}"]`).focus();
    if (!rows.length) {
      clear(list).append(filter.q || filter.state.size ? emptyBox(t("record.titles.none"),
        t("incident.empty.filter.text")) : emptyBox(t("record.titles.empty"), t("record.titles.empty.text")));
      return;
    }
    const made = table([
      { label: t("incident.state"), cell: (row) => titleState(row.state) },
      { label: t("record.title.token"), head: true, cell: (row) => h("a",
        { href: `#/title/${row.token}`, class: "mono strong", title: row.token }, short(row.token)) },
      { label: t("record.title.lock"), cell: (row) => lockNode(row.locked) },
      { label: t("record.title.vehicle"), cell: (row) => devicesNode(row.devices) },
      { label: t("record.title.lender"), cell: (row) => row.lender || h("span", { class: "none" }, t("record.title.no_lien")) },
      { label: t("record.title.guarantor"), cell: (row) => row.guarantor || h("span", { class: "none" }, "–") },
      { label: t("record.title.since"), cell: (row) => h("span", {}, time.atNode(row.since), h("br"),
        h("span", { class: "sub" }, time.agoNode(row.since))) },
    ], { caption: t("record.titles.caption"), captionHidden: true, rows, key: (row) => row.token });
    const more = pager(rows.length, found.total, found.next, () => load(found.next));
    clear(list).append(made, ...(more ? [more] : []));
    if (before) made.querySelectorAll("tbody tr")[before]?.querySelector("a").focus();
  }

  const changed = () => {
    ctx.setQuery({ state: [...filter.state], q: filter.q });
    load();
  };
  const typed = later(changed, TYPING_MS);
  const again = soon(() => load(), AGAIN_AFTER_MS);
  main.append(head(t("record.titles.title"), t("record.titles.said"), [printButton()]),
    h("div", { class: "toolbar" }, field(t("record.titles.search"), { type: "search", value: filter.q, maxlength: 80,
      autocomplete: "off", oninput: (event) => {
      filter.q = event.target.value.trim();
      typed();
    } }, { class: "grow" }).node), chipBox, list);
  list.append(loading());
  await load();
  const stop = ctx.live.on("title", again);
  return () => {
    stop();
    typed.stop();
    again.stop();
  };
}

async function one(main, ctx, token) {
  const body = h("div", { class: "stack" });
  main.append(body);
  const load = async () => {
    draw(body, await api.get(`titles/${encodeURIComponent(token)}`, {}, { signal: ctx.signal }));
  };
  await load();
  const again = soon(() => load().catch(() => { /* what is on the page stays */ }), AGAIN_AFTER_MS);
  const stop = ctx.live.on("title", (data) => data.token === token && again());
  return () => {
    stop();
    again.stop();
  };
}

function draw(body, found) {
  const { title } = found;
  clear(body).append(
    h("p", { class: "kicker" }, h("a", { href: "#/titles", class: "back no-print" }, icon("left"),
      h("span", {}, t("record.titles.title"))), titleState(title.state), lockNode(title.locked),
      h("span", { class: "push no-print" }, printButton())),
    h("h1", { tabindex: "-1" }, t("record.title.heading", { token: short(title.token) })),
    h("p", { class: "lead" }, t(title.locked ? "record.title.locked.said" : "record.title.unlocked.said"), " ",
      t(`record.title.is.${title.state}`)),
    h("div", { class: "split" },
      section(t("record.title.parties"), pairs([
        [t("record.title.owner"), found.owner || h("span", { class: "none" }, t("record.title.erased"))],
        [t("record.title.lender"), title.lender || t("record.title.no_lien")],
        [t("record.title.guarantor"), title.guarantor],
        [t("record.title.registry"), title.registry],
        [t("record.title.loan"), found.loan],
      ]), h("p", { class: "hint" }, t("record.title.one_key"))),
      section(t("record.title.thing"), pairs([
        [t("record.title.token"), hash(title.token)],
        [t("record.title.vehicle"), devicesNode(title.devices)],
        [t("record.title.since"), h("span", {}, time.atNode(title.since, "always"), " · ", time.agoNode(title.since))],
        [t("record.title.uri"), found.uri ? h("code", {}, found.uri) : null],
        [t("record.title.evidence"), found.evidence.length ? h("div", { class: "stack tight" },
          found.evidence.map((item) => hash(item))) : null],
      ]), h("p", { class: "hint" }, t("record.title.token.said")))),
    h("section", { class: "stack", "aria-labelledby": "steps" }, h("h2", { id: "steps" },
      t("record.title.steps", { n: number(found.steps.length) })), table([
      { label: t("record.title.number"), class: "num", cell: (row) => number(row.number) },
      { label: t("record.title.step"), head: true, cell: (row) => h("div", {},
        h("span", { class: "strong" }, wordOf("record.function", row.function)),
        row.events.length ? h("div", { class: "sub" },
          row.events.map((event) => wordOf("record.event", event)).join(", ")) : null) },
      { label: t("record.title.after"), cell: (row) => titleState(row.state) },
      { label: t("record.title.by"), cell: (row) => h("span", {}, row.org, " ",
        h("span", { class: "sub" }, `(${wordOf("record.role", row.role)})`)) },
      { label: t("record.title.at"), cell: (row) => time.atNode(row.at, "always") },
      { label: t("record.title.logged"), cell: (row) => h("div", { class: "stack tight" }, logLink(row.log_index),
        hash(row.statement)) },
    ], { caption: t("record.title.steps.caption"), captionHidden: true, rows: found.steps })));
}
