// What of each device's record is here, month by month. Bars are never without words.

import { h, append, clear, field, select, table } from "./dom.js";
import { icon } from "./icons.js";
import { t, number, say } from "./words.js";
import * as api from "./api.js";
import * as time from "./time.js";
import { emptyBox, head, loading, printButton, problemBox, section } from "./parts.js";
import { pager, saidList, yesNo } from "./bits.js";
import { readable } from "./lanes.js";

const PAGE = 50;

/** The views: #/completeness/<month> and #/completeness?device= */
export function show(main, ctx, params) {
  const device = params.query.get("device");
  return device ? one(main, ctx, device) : all(main, ctx, params.month);
}

/** A month in one word with its sign; the tones differ in sign and word, too. */
function verdict(month) {
  if (month.forks) return ["bad", "warning", t("record.month.forked", { n: month.forks })];
  if (month.missing) return ["bad", "question", t("record.month.missing", { n: month.missing })];
  if (month.erased) return ["note", "minus", t("record.month.erased", { n: month.erased })];
  if (!month.complete) return ["warn", "question", t("record.complete.no")];
  if (month.dropped) return ["good", "ok", t("record.month.thinned")];
  return ["good", "ok", t("record.complete.yes")];
}

function verdictNode(month) {
  const [tone, sign, word] = verdict(month);
  return h("span", { class: `badge tone-${tone}` }, icon(sign), h("span", {}, word));
}

/** How much of what is known to exist is here; the same in words beside it. */
function bar(month) {
  const all = month.segments + month.missing;
  const share = all ? month.segments / all : 1;
  return h("div", { class: "bar-box" }, h("div", { class: "bar", "aria-hidden": "true" },
    h("div", { style: { width: `${(share * 100).toFixed(1)}%` } })),
    h("span", { class: "sub" }, month.missing ? t("record.month.of", { here: number(month.segments),
      all: number(all) }) : t("record.month.here", { n: number(month.segments) })));
}

function legend() {
  return h("details", { class: "card legend" }, h("summary", {}, t("record.legend")), h("dl", { class: "pairs" },
    ["complete", "missing", "tombstones", "erased", "forks", "tail"].map((name) => h("div", {},
      h("dt", {}, t(`record.legend.${name}`)), h("dd", {}, t(`record.legend.${name}.said`))))));
}

async function all(main, ctx, wanted) {
  const list = h("div", { class: "stack" });
  const choose = h("div", { class: "toolbar" });
  const summary = h("span", { role: "status" });
  let rows = [];
  let month = /^\d{4}-\d\d$/.test(wanted || "") ? wanted : null;

  async function load(cursor = null) {
    try {
      const found = await api.get("completeness", { month, limit: PAGE, cursor }, { signal: ctx.signal });
      const before = cursor ? rows.length : 0;
      rows = cursor ? rows.concat(found.items) : found.items;
      draw(found, before);
    } catch (error) {
      if (error.name === "AbortError") return;
      clear(list).append(problemBox(error, () => load()));
    }
  }

  function draw(found, before) {
    month = found.month;
    summary.textContent = t("record.completeness.count", { n: number(found.total), month: time.month(found.month) });
    if (!choose.firstChild) {
      const months = [...new Set([found.month, ...found.months])].sort().reverse();
      append(choose, [field(t("record.month"), select(months.map((one) => [one, time.month(one)]), month, (event) => {
        month = event.target.value;
        ctx.navigate(`#/completeness/${month}`);
      })).node]);
    }
    if (!rows.length) {
      clear(list).append(emptyBox(t("record.completeness.empty"), t("record.completeness.empty.text")));
      return;
    }
    const made = table([
      { label: t("record.device"), head: true, hideLabel: true, cell: (row) => h("div", {},
        h("a", { href: `#/completeness?device=${encodeURIComponent(row.device)}`, class: "strong" }, row.name),
        row.branch ? h("div", { class: "sub" }, row.branch) : null) },
      { label: t("record.verdict"), cell: (row) => verdictNode(row.month) },
      { label: t("record.here"), cell: (row) => bar(row.month) },
      { label: t("record.words"), class: "wide", cell: (row) => saidList(row.month.sentences)
        || h("span", { class: "none" }, t("record.month.nothing")) },
    ], { class: "completeness", caption: t("record.completeness.caption", { month: time.month(found.month) }),
      captionHidden: true, rows, key: (row) => row.device });
    const more = pager(rows.length, found.total, found.next, () => load(found.next));
    clear(list).append(made, ...(more ? [more] : []));
    if (before) made.querySelectorAll("tbody tr")[before]?.querySelector("a").focus();
  }

  main.append(head(t("record.completeness.title"), summary, [printButton()]),
    h("p", {}, t("record.completeness.said")), choose, legend(), list);
  list.append(loading());
  await load();
}

async function one(main, ctx, device) {
  const found = await api.get(`vehicles/${encodeURIComponent(device)}/completeness`, {}, { signal: ctx.signal });
  const months = [...found.months].reverse();
  const complete = months.every((month) => month.complete);
  main.append(h("p", { class: "kicker" }, h("a", { href: "#/completeness", class: "back no-print" }, icon("left"),
    h("span", {}, t("record.completeness.title"))),
    h("a", { href: `#/vehicle/${encodeURIComponent(device)}` }, device), h("span", { class: "push no-print" }, printButton())),
  h("h1", { tabindex: "-1" }, t("record.completeness.of", { device })),
  h("p", { class: "lead row" }, yesNo(complete, t("record.complete.yes"), t("record.complete.no")), found.up_to
    ? h("span", {}, t(complete ? "record.up_to" : "record.up_to.not",
      { at: time.moment(found.up_to, "always") })) : h("span", {}, t("record.up_to.none"))), legend());
  if (!months.length) {
    main.append(emptyBox(t("record.completeness.empty"), t("record.completeness.empty.text")));
    return;
  }
  main.append(matrix(found.months), section(t("record.by_month.words"), h("ol", { class: "months" },
    months.map((month) => h("li", { id: `m-${month.month}` },
    h("div", { class: "row" }, h("h3", {}, time.month(month.month)), verdictNode(month)),
      h("ul", { class: "sentences" }, month.sentences.map((said) => h("li", {}, say(readable(said))))))))));
}

/** Months as columns, figures as rows; scrolls sideways on a phone. */
function matrix(months) {
  const rows = ["segments", "events", "missing", "tombstones", "dropped", "erased", "forks"];
  return h("div", { class: "matrix-wrap", tabindex: "0", role: "region", "aria-label": t("record.matrix") },
    h("table", { class: "matrix" },
    h("caption", { class: "visually-hidden" }, t("record.matrix")),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("record.month")),
      months.map((month) => h("th", { scope: "col" }, month.month)))),
    h("tbody", {}, h("tr", {}, h("th", { scope: "row" }, t("record.verdict")),
      months.map((month) => h("td", {}, verdictNode(month)))),
      rows.map((name) => h("tr", {}, h("th", { scope: "row" }, t(`record.row.${name}`)),
        months.map((month) => h("td", { class: month[name] ? "num" : "num none" }, number(month[name]))))))));
}
