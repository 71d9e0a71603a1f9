// What the collector itself complains about, and what it refused, each with what to do.

import { h, button, table } from "./dom.js";
import { icon } from "./icons.js";
import { t, has, number } from "./words.js";
import * as api from "./api.js";
import * as time from "./time.js";
import { emptyBox, head, printButton } from "./parts.js";
import { wordOf } from "./bits.js";
import { attempt } from "./once.js";

/** The view: #/alarms */
export async function show(main, ctx) {
  const found = await api.get("alarms", {}, { signal: ctx.signal });
  const below = h("div", { class: "stack" });
  const more = (page) => {
    const { next } = page;
    if (!next) return;
    const go = button(t("admin.more"), () => attempt(async () => {
      const after = await api.get("alarms", { cursor: next }, { signal: ctx.signal });
      go.remove();
      for (const name of ["alarms", "quarantine"]) if (after[name].length) below.append(list(name, after[name]));
      more(after);
    }), { icon: "down" });
    below.append(go);
  };
  main.append(head(t("record.alarms.title"), t("record.alarms.said"),
    [h("a", { class: "button quiet", href: "#/health" }, icon("health"), h("span", {}, t("record.health.title"))),
    printButton()]),
    part("alarms", found.alarms), part("quarantine", found.quarantine), below);
  more(found);
}

function part(name, rows) {
  const heading = h("h2", { id: `alarms-${name}` }, t(`record.${name}.heading`));
  const said = h("p", { class: "hint" }, t(`record.${name}.hint`));
  if (!rows.length) return h("section", { class: "stack", "aria-labelledby": heading.id }, heading,
    emptyBox(t(`record.${name}.none`), null));
  return h("section", { class: "stack", "aria-labelledby": heading.id }, heading, said, list(name, rows));
}

function list(name, rows) {
  return table([
    { label: t("record.alarm.what"), head: true, hideLabel: true, cell: (row) => h("div", { class: "stack tight" },
      h("span", { class: "strong" }, wordOf("record.alarm", row.kind)),
      h("span", { class: "sub", lang: "en" }, row.detail)) },
    { label: t("record.device"), cell: (row) => (name === "alarms" ? h("a",
      { href: `#/vehicle/${encodeURIComponent(row.device)}` }, row.device) : h("code", {}, row.device)) },
    { label: t("record.alarm.count"), class: "num", cell: (row) => number(row.count) },
    { label: t("record.alarm.last"), cell: (row) => h("span", {}, time.atNode(row.last_at), h("br"),
      h("span", { class: "sub" }, time.agoNode(row.last_at))) },
    { label: t("record.alarm.remedy"), cell: (row) => remedy(row) },
  ], { caption: t(`record.${name}.heading`), captionHidden: true, rows });
}

function remedy(row) {
  const code = `record.remedy.${row.kind}`;
  if (has(code)) return t(code);
  return row.remedy ? h("span", { lang: "en" }, row.remedy) : "–";
}
