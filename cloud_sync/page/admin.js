// Accounts with their one-time links, and API tokens. Roles and scopes are said in words.

import { h, clear, button, badge, field, select, check, table, confirm } from "./dom.js";
import { head, section, into, emptyBox } from "./parts.js";
import { t } from "./words.js";
import * as api from "./api.js";
import * as time from "./time.js";
import { tabs, manages, showOnce, formDialog, attempt, checks, listOf, joined } from "./once.js";
import * as rules from "./rules.js";

const ROLES = ["operator", "auditor", "technician", "partner"];

/** Shows #/admin/<tab>. */
export async function show(main, ctx, params) {
  const wanted = params.tab || (manages(ctx) ? "accounts" : "tokens");
  const part = manages(ctx) ? wanted : "tokens";
  if (["rules", "webhooks", "deliveries"].includes(part)) return rules.show(main, ctx, { ...params, tab: part });
  return part === "tokens" ? showTokens(main, ctx) : showAccounts(main, ctx);
}

// --- accounts

async function showAccounts(main, ctx) {
  const list = h("div", {});
  const reload = () => into(list, async () => {
    const { items } = await api.get("accounts");
    return accountTable(ctx, items, reload);
  });
  clear(main).append(
    head(t("admin.accounts"), t("admin.accounts.sub"),
      [button(t("admin.account.new"), () => newAccount(ctx, reload), { icon: "person_add", kind: "primary" })]),
    tabs(ctx, "accounts"), list, section(t("admin.roles"), rolesExplained()));
  await reload();
}

function rolesExplained() {
  return h("dl", { class: "pairs" }, ROLES.map((role) => h("div", {}, h("dt", {}, t(`admin.role.${role}`)),
    h("dd", {}, t(`admin.role.${role}.may`)))), h("div", {}, h("dt", {}, t("admin.manages")),
  h("dd", {}, t("admin.manages.may"))));
}

function accountTable(ctx, items, reload) {
  return table([
    { label: t("admin.account.name"), head: true, cell: (row) => row.name },
    { label: t("admin.account.role"), cell: (row) => h("span", {}, t(`admin.role.${row.role}`),
      row.manages ? [" ", badge(t("admin.manages"), "note", "key")] : null) },
    { label: t("admin.account.branches"), cell: (row) => (row.branches.length ? joined(row.branches)
      : t("admin.account.all_branches")) },
    { label: t("admin.account.email"), cell: (row) => row.email || t("admin.none") },
    { label: t("admin.account.last_seen"), cell: (row) => (row.last_seen ? time.atNode(row.last_seen) : t("admin.never")) },
    { label: t("admin.account.state"), cell: (row) => (row.disabled ? badge(t("admin.account.disabled"), "mute", "lock")
      : badge(t("admin.account.enabled"), "good", "ok")) },
    { label: t("admin.actions"), class: "no-print", cell: (row) => accountActions(ctx, row, reload) },
  ], { caption: t("admin.accounts"), captionHidden: true, rows: items, key: (row) => row.id });
}

function accountActions(ctx, row, reload) {
  const about = (label) => ({ "aria-label": t("admin.about", { what: label, name: row.name }) });
  const mine = row.id === ctx.session.account.id;
  return h("div", { class: "actions" },
    button(t("admin.edit"), () => editAccount(ctx, row, reload), { icon: "edit", kind: "quiet", ...about(t("admin.edit")) }),
    button(t("admin.account.link"), () => newLink(ctx, row, reload), { icon: "key", kind: "quiet", ...about(t("admin.account.link")) }),
    mine ? null : button(t(row.disabled ? "admin.account.enable" : "admin.account.disable"),
      () => toggle(ctx, row, reload), { kind: "quiet", icon: row.disabled ? "unlock" : "lock",
        ...about(t(row.disabled ? "admin.account.enable" : "admin.account.disable")) }));
}

function accountFields(ctx, row) {
  const explained = h("p", { class: "hint", role: "status" });
  const explain = () => { explained.textContent = t(`admin.role.${role.value}.may`); };
  const role = select(ROLES.map((name) => [name, t(`admin.role.${name}`)]), row.role, () => explain());
  explain();
  const branches = field(t("admin.account.branches"), { value: row.branches.join(", "), autocomplete: "off" },
    { hint: t("admin.account.branches.hint") });
  const language = select([["en", "English"], ["zh", "中文"]], row.language);
  const email = field(t("admin.account.email"), { type: "email", value: row.email || "", autocomplete: "off" },
    { hint: t("admin.account.email.hint") });
  const may = check(t("admin.manages.may"), row.manages);
  return {
    nodes: [field(t("admin.account.role"), role).node, explained, branches.node,
      field(t("admin.account.language"), language).node, email.node, may.node],
    values: () => ({ role: role.value, branches: listOf(branches.input.value), language: language.value,
      email: email.input.value.trim() || null, manages: may.input.checked }),
    valid: () => {
      const lacking = role.value === "partner" && !listOf(branches.input.value).length;
      branches.error(lacking ? t("admin.account.branches.needed") : null);
      if (lacking) branches.input.focus();
      return !lacking;
    },
  };
}

async function newAccount(ctx, reload) {
  const name = field(t("admin.account.name"), { autocomplete: "off", maxlength: 80, required: true },
    { hint: t("admin.account.name.hint") });
  const rest = accountFields(ctx, { role: "operator", branches: [], language: ctx.language, email: null, manages: false });
  const made = await formDialog(t("admin.account.new"), {
    intro: t("admin.account.new.intro"), fields: [name.node, rest.nodes], submit: t("admin.account.create"),
    save: async () => {
      name.error(name.input.value.trim() ? null : t("admin.needed"));
      if (!rest.valid() || !name.input.value.trim()) return undefined;
      return api.send("POST", "accounts", { name: name.input.value.trim(), ...rest.values() });
    },
  });
  if (!made) return;
  await reload();
  await showLink(ctx, made);
}

async function editAccount(ctx, row, reload) {
  const rest = accountFields(ctx, row);
  const made = await formDialog(t("admin.account.edit", { name: row.name }), {
    fields: rest.nodes, submit: t("admin.save"),
    save: async () => (rest.valid() ? api.send("PATCH", `accounts/${row.id}`, rest.values()) : undefined),
  });
  if (!made) return;
  ctx.announce(t("admin.saved"));
  await reload();
}

async function newLink(ctx, row, reload) {
  const sure = await confirm(t("admin.account.link"), t("admin.account.link.sure", { name: row.name }),
    t("admin.account.link.make"), "primary");
  if (!sure) return;
  await attempt(async () => {
    const made = await api.send("PATCH", `accounts/${row.id}`, { new_link: true });
    await reload();
    await showLink(ctx, made);
  });
}

async function toggle(ctx, row, reload) {
  const word = row.disabled ? "enable" : "disable";
  const sure = await confirm(t(`admin.account.${word}`), t(`admin.account.${word}.sure`, { name: row.name }),
    t(`admin.account.${word}`), row.disabled ? "primary" : "danger");
  if (!sure) return;
  await attempt(async () => {
    await api.send("PATCH", `accounts/${row.id}`, { disabled: !row.disabled });
    ctx.announce(t("admin.saved"));
    await reload();
  });
}

async function showLink(ctx, made) {
  if (!made.link) return;
  await showOnce(t("admin.account.link.for", { name: made.account.name }),
    { label: t("admin.account.link.label"), value: made.link, text: t("admin.account.link.text") });
}

// --- tokens

async function showTokens(main, ctx) {
  const list = h("div", {});
  const reload = () => into(list, async () => {
    const { items } = await api.get("tokens");
    if (!items.length) return emptyBox(t("admin.tokens.empty"), t("admin.tokens.empty.text"));
    return tokenTable(ctx, items, reload);
  });
  clear(main).append(
    head(t("admin.tokens"), t("admin.tokens.sub"),
      [button(t("admin.token.new"), () => newToken(ctx, reload), { icon: "plus", kind: "primary" })]),
    tabs(ctx, "tokens"), list);
  await reload();
}

function tokenTable(ctx, items, reload) {
  return table([
    { label: t("admin.token.name"), head: true, cell: (row) => h("span", {}, row.name, " ", h("code", {}, row.id)) },
    { label: t("admin.token.account"), cell: (row) => row.account },
    { label: t("admin.token.scopes"), cell: (row) => joined(row.scopes.map((scope) => t(scopeCode(scope)))) },
    { label: t("admin.token.made"), cell: (row) => time.atNode(row.made_at) },
    { label: t("admin.token.expires"), cell: (row) => time.atNode(row.expires_at) },
    { label: t("admin.token.used"), cell: (row) => (row.last_used ? time.atNode(row.last_used) : t("admin.never")) },
    { label: t("admin.actions"), class: "no-print", cell: (row) => button(t("admin.token.revoke"),
      () => revoke(ctx, row, reload), { kind: "danger",
        "aria-label": t("admin.about", { what: t("admin.token.revoke"), name: row.name }) }) },
  ], { caption: t("admin.tokens"), captionHidden: true, rows: items, key: (row) => row.id });
}

/** "read:fleet" -> "admin.scope.read_fleet" */
function scopeCode(scope) {
  return `admin.scope.${scope.replace(":", "_")}`;
}

async function newToken(ctx, reload) {
  const name = field(t("admin.token.name"), { autocomplete: "off", maxlength: 80 }, { hint: t("admin.token.name.hint") });
  const scopes = checks(t("admin.token.scopes"), ctx.session.scopes.map((scope) => [scope, t(scopeCode(scope))]), [],
    { hint: t("admin.token.scopes.hint") });
  const days = field(t("admin.token.days"), { type: "number", min: 1, max: 366, value: 90 }, { hint: t("admin.token.days.hint") });
  const made = await formDialog(t("admin.token.new"), {
    fields: [name.node, scopes.node, days.node], submit: t("admin.token.create"),
    save: async () => {
      name.error(name.input.value.trim() ? null : t("admin.needed"));
      days.error(Number(days.input.value) >= 1 && Number(days.input.value) <= 366 ? null : t("admin.token.days.hint"));
      if (!name.input.value.trim() || !days.input.checkValidity()) return undefined;
      return api.send("POST", "tokens", { name: name.input.value.trim(), scopes: scopes.values(), days: Number(days.input.value) });
    },
  });
  if (!made) return;
  await reload();
  await showOnce(t("admin.token.secret.for", { name: made.token.name }),
    { label: t("admin.token.secret"), value: made.secret, text: t("admin.token.secret.text") });
}

async function revoke(ctx, row, reload) {
  const sure = await confirm(t("admin.token.revoke"), t("admin.token.revoke.sure", { name: row.name }), t("admin.token.revoke"));
  if (!sure) return;
  await attempt(async () => {
    await api.send("DELETE", `tokens/${row.id}`);
    ctx.announce(t("admin.saved"));
    await reload();
  });
}
