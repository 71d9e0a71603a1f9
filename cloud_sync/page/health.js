// The devices, those that need a hand first.

import { h, clear, field, select, table } from "./dom.js";
import { t, number } from "./words.js";
import * as api from "./api.js";
import * as time from "./time.js";
import { emptyBox, head, loading, printButton, problemBox, vehicleState } from "./parts.js";
import { later, pager, saidList, soon } from "./bits.js";
import { THRESHOLDS, certificateNode, dueNode, outboxText, supplyNode } from "./vehicle.js";

const PAGE = 50;
const TYPING_MS = 300;
const AGAIN_AFTER_MS = 5000;

const COLUMNS = () => [
  { label: t("record.device"), head: true, class: "what", hideLabel: true, cell: (row) => h("div", { class: "stack tight" },
    h("span", { class: "row" }, vehicleState(row.state), h("a",
      { href: `#/vehicle/${encodeURIComponent(row.device)}`, class: "strong" }, row.name)),
    row.branch ? h("span", { class: "sub" }, row.branch) : null, saidList(row.reasons)) },
  { label: t("record.heard"), cell: (row) => (row.last_heard ? time.agoNode(row.last_heard) : h("span",
    { class: "none" }, t("record.never"))) },
  { label: t("record.due"), cell: (row) => dueNode(row) },
  { label: t("record.power"), cell: (row) => t(`shell.power.${row.power_state}`) },
  { label: t("record.supply"), cell: (row) => supplyNode(row) },
  { label: t("record.certificate"), cell: (row) => certificateNode(row) },
  { label: t("record.outbox"), cell: (row) => outboxText(row) },
];

/** The view: #/health?branch=&q= */
export async function show(main, ctx, params) {
  const filter = { branch: params.query.get("branch") || "", q: params.query.get("q") || "" };
  const list = h("div", { class: "stack" });
  const summary = h("span", { role: "status" });
  let rows = [];
  let latest = null;

  async function load(cursor = null) {
    const mine = Symbol("load");
    latest = mine;
    try {
      const found = await api.get("vehicles", { ...filter, sort: "health", limit: Math.max(PAGE,
        cursor ? PAGE : Math.min(500, rows.length)), cursor }, { signal: ctx.signal });
      if (latest !== mine) return;
      const before = cursor ? rows.length : 0;
      rows = cursor ? rows.concat(found.items) : found.items;
      draw(found, before);
    } catch (error) {
      if (error.name !== "AbortError" && latest === mine) clear(list).append(problemBox(error, () => load()));
    }
  }

  function draw(found, before) {
    summary.textContent = t("record.health.count", { n: number(found.total) });
    if (!rows.length) {
      clear(list).append(emptyBox(t("record.health.empty"), filter.q || filter.branch
        ? t("incident.empty.filter.text") : t("record.health.empty.text")));
      return;
    }
    const made = table(COLUMNS(), { caption: t("record.health.caption"), captionHidden: true, rows, key: (row) => row.device });
    const more = pager(rows.length, found.total, found.next, () => load(found.next));
    clear(list).append(made, ...(more ? [more] : []));
    if (before) made.querySelectorAll("tbody tr")[before]?.querySelector("a").focus();
  }

  const changed = () => {
    ctx.setQuery(filter);
    load();
  };
  const typed = later(changed, TYPING_MS);
  const again = soon(() => {
    if (!list.contains(document.activeElement)) load();
  }, AGAIN_AFTER_MS);
  const { branches } = ctx.session;
  main.append(head(t("record.health.title"), summary,
    [ctx.may("read:log") ? h("a", { class: "button quiet", href: "#/alarms" }, t("record.alarms.title")) : null,
    printButton()]),
    h("div", { class: "toolbar" },
      field(t("record.search"), { type: "search", value: filter.q, maxlength: 80, autocomplete: "off", oninput: (event) => {
        filter.q = event.target.value.trim();
        typed();
      } }, { class: "grow" }).node,
      branches.length ? field(t("incident.branch"),
        select([["", t("incident.all_branches")], ...branches.map((name) => [name, name])], filter.branch,
        (event) => {
        filter.branch = event.target.value;
        changed();
      })).node : null),
    h("p", { class: "hint" }, t("record.health.said", { volts: number(THRESHOLDS.volts, 1),
      days: number(THRESHOLDS.days) })), list);
  list.append(loading());
  await load();
  const stop = ctx.live.on("vehicles", again);
  return () => {
    stop();
    typed.stop();
    again.stop();
  };
}
