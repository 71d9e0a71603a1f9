// Who read or changed what, and why: each entry is a signed statement of the log.

import { h, clear, append, badge, button, table } from "./dom.js";
import { head, into, emptyBox, printButton } from "./parts.js";
import { t, has } from "./words.js";
import { attempt } from "./once.js";
import * as api from "./api.js";
import * as time from "./time.js";

/** Shows #/audit. */
export async function show(main) {
  const list = h("div", {});
  const reload = () => into(list, async () => {
    const page = await api.get("audit");
    return page.items.length ? pages(page) : emptyBox(t("admin.audit.empty"), t("admin.audit.empty.text"));
  });
  clear(main).append(head(t("admin.audit"), t("admin.audit.sub"), [printButton()]), list);
  await reload();
}

function pages(first) {
  const box = h("div", {});
  const add = (page) => {
    const more = page.next ? button(t("admin.more"), async () => {
      more.disabled = true;
      await attempt(async () => {
        const next = await api.get("audit", { cursor: page.next });
        more.remove();
        add(next);
      });
      more.disabled = false;
    }, { icon: "down" }) : null;
    append(box, [auditTable(page.items), more]);
  };
  add(first);
  return box;
}

function auditTable(items) {
  return table([
    { label: t("admin.audit.number"), head: true, cell: (row) => row.number },
    { label: t("admin.audit.at"), cell: (row) => time.atNode(row.at, "always") },
    { label: t("admin.audit.account"), cell: (row) => row.account },
    { label: t("admin.audit.action"), cell: (row) => action(row.action) },
    { label: t("admin.audit.what"), cell: (row) => h("span", {}, row.device ? h("a",
      { href: `#/vehicle/${encodeURIComponent(row.device)}` }, row.device) : null, row.device && row.what ? " · " : null, what(row.what)) },
    { label: t("admin.audit.purpose"), cell: (row) => row.purpose || t("admin.none") },
    { label: t("admin.audit.log"), cell: (row) => logged(row) },
  ], { caption: t("admin.audit"), captionHidden: true, rows: items, key: (row) => row.number });
}

/** Where the log holds it: its entry, or that it is signed and the next checkpoint will cover it. */
function logged(row) {
  if (row.awaiting_checkpoint) return badge(t("admin.audit.awaiting"), "note", "overdue");
  if (row.log_index === null) return t("admin.audit.pending");
  return h("a", { href: `#/log?index=${row.log_index}` }, t("admin.audit.index", { index: row.log_index }));
}

// What the server writes there for itself, and how it is shown.
const INCIDENT = /\b([a-z0-9-]+\.[0-9a-f]{32}\.\d+)\b/;
const CHANGED = /^(made|changed|removed) (rule|webhook) (\d+)$/;

function what(text) {
  if (!text) return null;
  const incident = INCIDENT.exec(text);
  if (incident) return h("a", { href: `#/incident/${encodeURIComponent(incident[1])}` }, t("admin.audit.incident"));
  const changed = CHANGED.exec(text);
  if (changed) return t(`admin.audit.${changed[1]}`, { number: changed[3] });
  return h("code", {}, text);
}

function action(name) {
  const code = `admin.audit.action.${name}`;
  return has(code) ? t(code) : name;
}
