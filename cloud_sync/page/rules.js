// Who is told of what: rules, said in sentences while they are edited; webhooks; messages on their way.

import { h, clear, append, button, badge, field, select, check, table, confirm } from "./dom.js";
import { head, section, into, emptyBox, cause, CAUSES } from "./parts.js";
import { t, number, language } from "./words.js";
import { icon } from "./icons.js";
import * as api from "./api.js";
import * as time from "./time.js";
import { tabs, confined, showOnce, formDialog, attempt, checks, listOf, joined } from "./once.js";

const NOBODY = 1001;
const DAYS = [0, 1, 2, 3, 4, 5, 6];

/** Shows #/admin/rules, #/admin/webhooks or #/admin/deliveries. */
export async function show(main, ctx, params) {
  if (params.tab === "webhooks") return showWebhooks(main, ctx);
  if (params.tab === "deliveries") return showDeliveries(main, ctx, params);
  return showRules(main, ctx);
}

// --- rules

async function showRules(main, ctx) {
  const list = h("div", { class: "stack" });
  const reload = () => into(list, async () => {
    const [rules, hooks] = await Promise.all([api.get("rules"), webhooks(ctx)]);
    if (!rules.items.length) return emptyBox(t("admin.rules.empty"), t("admin.rules.empty.text"));
    return [mailWarning(rules), ...rules.items.map((rule) => ruleCard(ctx, rule, hooks, reload))].filter(Boolean);
  });
  clear(main).append(
    head(t("admin.rules"), t("admin.rules.sub"),
      [button(t("admin.rule.new"), () => editRule(ctx, null, reload), { icon: "plus", kind: "primary" })]),
    tabs(ctx, "rules"), list);
  await reload();
}

/** The webhooks by name; none where they belong to more branches than this account sees. */
async function webhooks(ctx) {
  return confined(ctx) ? [] : (await api.get("webhooks")).items;
}

/** Rules that want mail while the server has no mail server to hand it to: their messages wait and are given up. */
function mailWarning(rules) {
  const wanting = rules.items.filter((rule) => rule.enabled && (rule.emails.length || rule.escalate_to.length));
  if (rules.mail !== false || !wanting.length) return null;
  return h("div", { class: "notice warn no-mail" }, icon("warning"), h("div", {},
    h("p", { class: "strong" }, t("admin.rules.no_mail", { names: joined(wanting.map((rule) => rule.name)) })),
    h("p", {}, t("admin.rules.no_mail.text"))));
}

function ruleCard(ctx, rule, hooks, reload) {
  const about = (label) => ({ "aria-label": t("admin.about", { what: label, name: rule.name }) });
  return h("section", { class: "card" },
    h("h2", {}, rule.name, rule.enabled ? null : [" ", badge(t("admin.rule.off"), "mute", "lock")]),
    h("ul", { class: "sentences" }, Object.values(sentences(rule, hooks)).map((text) => h("li", {}, text))),
    h("div", { class: "actions no-print" },
      button(t("admin.edit"), () => editRule(ctx, rule, reload), { icon: "edit", ...about(t("admin.edit")) }),
      button(t("admin.delete"), () => remove(ctx, `rules/${rule.id}`, t("admin.rule.delete.sure", { name: rule.name }), reload),
        { kind: "danger", ...about(t("admin.delete")) })));
}

/** What a rule does, a sentence for each part of it. */
export function sentences(rule, hooks) {
  const names = hooks.filter((hook) => rule.webhooks.includes(hook.id)).map((hook) => hook.name);
  const unnamed = rule.webhooks.length - names.length;
  const targets = [...rule.emails, ...names, ...(unnamed > 0 ? [t("admin.rule.other_webhooks", { n: unnamed })] : [])];
  return {
    what: [t("admin.rule.says.what", {
      causes: rule.causes.length ? joined(rule.causes.map(cause)) : t("admin.rule.every_cause"),
      branches: rule.branches.length ? joined(rule.branches) : t("admin.rule.every_branch"),
      severity: rule.min_severity }), rule.overdue ? t("admin.rule.says.overdue") : ""].join(language() === "zh" ? "" : " ").trim(),
    who: targets.length ? t(`admin.rule.says.who.${rule.language}`, { targets: joined(targets) })
      : t("admin.rule.says.nobody"),
    quiet: quietSentence(rule.quiet),
    escalation: rule.escalate_after_s === null ? t("admin.rule.says.no_escalation")
      : t(rule.escalate_to.length ? "admin.rule.says.escalation" : "admin.rule.says.escalation_alone",
        { minutes: number(rule.escalate_after_s / 60), targets: joined(rule.escalate_to) }),
    digest: t("admin.rule.says.digest", { count: rule.digest_after, minutes: number(rule.digest_s / 60, rule.digest_s % 60 ? 1 : 0) }),
  };
}

function quietSentence(quiet) {
  if (!quiet) return t("admin.rule.says.any_hour");
  const days = quiet.days.length === DAYS.length ? t("admin.rule.every_day") : joined(quiet.days.map((day) => t(`admin.day.${day}`)));
  return t(quiet.except_severity >= NOBODY ? "admin.rule.says.quiet_all" : "admin.rule.says.quiet",
    { start: quiet.start, end: quiet.end, zone: quiet.zone, days, severity: quiet.except_severity });
}

const NEW_RULE = { name: "", branches: [], causes: [], min_severity: 0, overdue: false, emails: [], webhooks: [], quiet: null,
  escalate_after_s: 900, escalate_to: [], digest_after: 5, digest_s: 300, enabled: true };

async function editRule(ctx, given, reload) {
  const rule = given || { ...NEW_RULE, language: ctx.language, branches: ctx.session.account.branches };
  const hooks = await webhooks(ctx);
  const form = ruleForm(ctx, rule, hooks);
  const made = await formDialog(given ? t("admin.rule.edit", { name: rule.name }) : t("admin.rule.new"), {
    fields: form.nodes, submit: t("admin.save"),
    save: async () => {
      if (!form.valid()) return undefined;
      const body = form.value();
      return given ? api.send("PUT", `rules/${given.id}`, body) : api.send("POST", "rules", body);
    },
  });
  if (!made) return;
  ctx.announce(t("admin.saved"));
  await reload();
}

/** Fields of a rule; below each group its sentence, which follows what is typed. */
function ruleForm(ctx, rule, hooks) {
  const told = {};
  const line = (name) => {
    told[name] = h("p", { class: "says strong" });
    return told[name];
  };
  const follow = () => {
    for (const [name, text] of Object.entries(sentences(value(), hooks))) told[name].textContent = text;
  };
  const on = { oninput: () => follow(), onchange: () => follow() };
  const quiet = rule.quiet || { start: "22:00", end: "07:00", zone: time.zone(), days: DAYS, except_severity: 700 };
  const f = {
    name: field(t("admin.rule.name"), { value: rule.name, maxlength: 80, autocomplete: "off" }),
    enabled: check(t("admin.rule.enabled"), rule.enabled),
    causes: checks(t("admin.rule.causes"), CAUSES.map((name) => [name, cause(name)]), rule.causes,
      { hint: t("admin.rule.causes.hint"), onchange: () => follow() }),
    branches: field(t("admin.account.branches"), { value: rule.branches.join(", "), autocomplete: "off", ...on },
      { hint: t("admin.rule.branches.hint") }),
    overdue: check(t("admin.rule.overdue"), rule.overdue, () => follow()),
    severity: field(t("admin.rule.severity"), { type: "number", min: 0, max: 1000, value: rule.min_severity, ...on },
      { hint: t("admin.rule.severity.hint") }),
    emails: field(t("admin.rule.emails"), { value: rule.emails.join(", "), autocomplete: "off", ...on }, { hint: t("admin.rule.emails.hint") }),
    webhooks: checks(t("admin.webhooks"), hooks.map((hook) => [hook.id, hook.name]), rule.webhooks,
      { hint: hooks.length ? null : t(confined(ctx) ? "admin.webhooks.confined" : "admin.webhooks.empty"), onchange: () => follow() }),
    language: select([["en", "English"], ["zh", "中文"]], rule.language, () => follow()),
    isQuiet: check(t("admin.rule.quiet.on"), Boolean(rule.quiet), () => follow()),
    start: field(t("admin.rule.quiet.start"), { type: "time", value: quiet.start, ...on }),
    end: field(t("admin.rule.quiet.end"), { type: "time", value: quiet.end, ...on }),
    zone: select(time.zones().map((name) => [name, name]), quiet.zone, () => follow()),
    days: checks(t("admin.rule.quiet.days"), DAYS.map((day) => [day, t(`admin.day.${day}`)]), quiet.days, { onchange: () => follow() }),
    except: field(t("admin.rule.quiet.except"), { type: "number", min: 0, max: NOBODY, value: quiet.except_severity, ...on },
      { hint: t("admin.rule.quiet.except.hint") }),
    escalates: check(t("admin.rule.escalate.on"), rule.escalate_after_s !== null, () => follow()),
    after: field(t("admin.rule.escalate.after"), { type: "number", min: 1, max: 1440, value: Math.round((rule.escalate_after_s || 900) / 60), ...on }),
    to: field(t("admin.rule.escalate.to"), { value: rule.escalate_to.join(", "), autocomplete: "off", ...on }, { hint: t("admin.rule.emails.hint") }),
    digestAfter: field(t("admin.rule.digest.after"), { type: "number", min: 1, max: 1000, value: rule.digest_after, ...on }),
    digestFor: field(t("admin.rule.digest.for"), { type: "number", min: 10, max: 86_400, value: rule.digest_s, ...on }),
  };
  const unnamed = rule.webhooks.filter((id) => !hooks.some((hook) => hook.id === id));
  const value = () => ruleValue(f, unnamed);
  const group = (title, name, ...nodes) => h("section", { class: "card" }, h("h3", {}, title), line(name), nodes);
  const nodes = [f.name.node, f.enabled.node,
    group(t("admin.rule.part.what"), "what", f.causes.node, f.branches.node, f.severity.node, f.overdue.node),
    group(t("admin.rule.part.who"), "who", f.emails.node, f.webhooks.node, field(t("admin.rule.language"), f.language).node),
    group(t("admin.rule.part.quiet"), "quiet", f.isQuiet.node, f.start.node, f.end.node, field(t("admin.rule.quiet.zone"), f.zone).node,
      f.days.node, f.except.node),
    group(t("admin.rule.part.escalation"), "escalation", f.escalates.node, f.after.node, f.to.node),
    group(t("admin.rule.part.digest"), "digest", f.digestAfter.node, f.digestFor.node)];
  follow();
  return { nodes, value, valid: () => valid(f) };
}

/** What the form says; webhooks that this account does not see stay in the rule. */
function ruleValue(f, unnamed) {
  const whole = (entry) => Math.round(Number(entry.input.value) || 0);
  return {
    name: f.name.input.value.trim(), enabled: f.enabled.input.checked, causes: f.causes.values(),
    branches: listOf(f.branches.input.value), min_severity: whole(f.severity), overdue: f.overdue.input.checked, emails: listOf(f.emails.input.value),
    webhooks: [...f.webhooks.values(), ...unnamed], language: f.language.value,
    quiet: f.isQuiet.input.checked ? { start: f.start.input.value, end: f.end.input.value, zone: f.zone.value,
      days: f.days.values(), except_severity: whole(f.except) } : null,
    escalate_after_s: f.escalates.input.checked ? whole(f.after) * 60 : null, escalate_to: listOf(f.to.input.value),
    digest_after: whole(f.digestAfter), digest_s: whole(f.digestFor),
  };
}

function valid(f) {
  let first = null;
  const must = (entry, good, text) => {
    entry.error(good ? null : text);
    if (!good && !first) first = entry.input;
  };
  must(f.name, Boolean(f.name.input.value.trim()), t("admin.needed"));
  for (const name of ["severity", "except", "after", "digestAfter", "digestFor"]) {
    const input = f[name].input;
    must(f[name], input.checkValidity() && input.value !== "", t("admin.range", { low: input.min, high: input.max }));
  }
  if (f.isQuiet.input.checked) {
    for (const name of ["start", "end"]) must(f[name], f[name].input.value !== "", t("admin.needed"));
  }
  for (const name of ["emails", "to"]) {
    const bad = listOf(f[name].input.value).find((text) => !/^[^\s@]+@[^\s@]+$/.test(text));
    must(f[name], bad === undefined, t("admin.not_email", { text: bad || "" }));
  }
  if (first) first.focus();
  return first === null;
}

async function remove(ctx, path, text, reload) {
  if (!(await confirm(t("admin.delete"), text, t("admin.delete")))) return;
  await attempt(async () => {
    await api.send("DELETE", path);
    ctx.announce(t("admin.deleted"));
    await reload();
  });
}

// --- webhooks

async function showWebhooks(main, ctx) {
  const list = h("div", {});
  const reload = () => into(list, async () => {
    const { items } = await api.get("webhooks");
    return items.length ? webhookTable(ctx, items, reload) : emptyBox(t("admin.webhooks.empty"), t("admin.webhooks.empty.text"));
  });
  clear(main).append(
    head(t("admin.webhooks"), t("admin.webhooks.sub"),
      [button(t("admin.webhook.new"), () => newWebhook(ctx, reload), { icon: "plus", kind: "primary" })]),
    tabs(ctx, "webhooks"), list, section(t("admin.webhooks.how"), h("p", {}, t("admin.webhooks.how.text"))));
  await reload();
}

function webhookTable(ctx, items, reload) {
  const about = (label, row) => ({ "aria-label": t("admin.about", { what: label, name: row.name }) });
  return table([
    { label: t("admin.webhook.name"), head: true, cell: (row) => row.name },
    { label: t("admin.webhook.url"), cell: (row) => h("code", {}, row.url) },
    { label: t("admin.webhook.waiting"), class: "num", cell: (row) => number(row.waiting) },
    { label: t("admin.webhook.dead"), class: "num", cell: (row) => (row.dead
      ? h("a", { href: "#/admin/deliveries?state=dead" }, badge(number(row.dead), "bad", "warning")) : number(0)) },
    { label: t("admin.webhook.error"), cell: (row) => errorWords(row.last_error) },
    { label: t("admin.actions"), class: "no-print", cell: (row) => h("div", { class: "actions" },
      button(t("admin.webhook.test"), () => testWebhook(ctx, row, reload), { icon: "radio", ...about(t("admin.webhook.test"), row) }),
      button(t("admin.delete"), () => remove(ctx, `webhooks/${row.id}`, t("admin.webhook.delete.sure", { name: row.name }), reload),
        { kind: "danger", ...about(t("admin.delete"), row) })) },
  ], { caption: t("admin.webhooks"), captionHidden: true, rows: items, key: (row) => row.id });
}

async function newWebhook(ctx, reload) {
  const name = field(t("admin.webhook.name"), { maxlength: 80, autocomplete: "off" });
  const url = field(t("admin.webhook.url"), { type: "url", maxlength: 500, autocomplete: "off" }, { hint: t("admin.webhook.url.hint") });
  const made = await formDialog(t("admin.webhook.new"), {
    fields: [name.node, url.node], submit: t("admin.webhook.create"),
    save: async () => {
      name.error(name.input.value.trim() ? null : t("admin.needed"));
      url.error(/^https?:\/\/[^\s]+$/.test(url.input.value.trim()) ? null : t("admin.webhook.url.hint"));
      if (!name.input.value.trim() || url.input.getAttribute("aria-invalid")) return undefined;
      return api.send("POST", "webhooks", { name: name.input.value.trim(), url: url.input.value.trim() });
    },
  });
  if (!made) return;
  await reload();
  await showOnce(t("admin.webhook.secret.for", { name: made.webhook.name }),
    { label: t("admin.webhook.secret"), value: made.secret, text: t("admin.webhook.secret.text") });
}

async function testWebhook(ctx, row, reload) {
  await attempt(async () => {
    await api.send("POST", `webhooks/${row.id}/test`);
    ctx.announce(t("admin.webhook.tested", { name: row.name }));
    await reload();
  });
}

// --- deliveries

const TONES = { waiting: ["note", "overdue"], delivered: ["good", "ok"], dead: ["bad", "warning"] };

async function showDeliveries(main, ctx, params) {
  const wanted = params.query.get("state") || "";
  const states = ["", ...Object.keys(TONES)];
  const filter = field(t("admin.delivery.state"), select(states.map((state) => [state,
    t(state ? `admin.delivery.${state}` : "admin.delivery.all")]), states.includes(wanted) ? wanted : "", () => {
      ctx.setQuery({ state: filter.input.value });
      reload();
    }));
  const list = h("div", {});
  const reload = () => into(list, async () => {
    const page = await api.get("deliveries", { state: filter.input.value });
    if (!page.items.length) return emptyBox(t("admin.deliveries.empty"), t("admin.deliveries.empty.text"));
    return deliveryPages(ctx, page, filter.input.value, reload);
  });
  clear(main).append(head(t("admin.deliveries"), t("admin.deliveries.sub")), tabs(ctx, "deliveries"),
    h("div", { class: "toolbar no-print" }, filter.node), list);
  await reload();
}

function deliveryPages(ctx, first, state, reload) {
  const box = h("div", {});
  const add = (page) => {
    const more = page.next ? button(t("admin.more"), async () => {
      more.disabled = true;
      await attempt(async () => {
        const next = await api.get("deliveries", { state, cursor: page.next });
        more.remove();
        add(next);
      });
      more.disabled = false;
    }, { icon: "down" }) : null;
    append(box, [deliveryTable(ctx, page.items, reload), more]);
  };
  add(first);
  return box;
}

function deliveryTable(ctx, items, reload) {
  return table([
    { label: t("admin.delivery.subject"), head: true, cell: (row) => row.subject },
    { label: t("admin.delivery.target"), cell: (row) => t("admin.about",
      { what: t(`admin.channel.${row.channel}`), name: row.target }) },
    { label: t("admin.delivery.state"), cell: (row) => h("div", { class: "stack tight" },
      h("div", {}, badge(t(`admin.delivery.${row.state}`), ...TONES[row.state])), row.error ? errorWords(row.error) : null) },
    { label: t("admin.delivery.attempts"), class: "num", cell: (row) => number(row.attempts) },
    { label: t("admin.delivery.made"), cell: (row) => time.atNode(row.made_at) },
    { label: t("admin.delivery.next"), cell: (row) => (row.state === "delivered" ? time.atNode(row.delivered_at)
      : row.next_at ? time.atNode(row.next_at) : t("admin.none")) },
    { label: t("admin.actions"), class: "no-print", cell: (row) => (row.state === "dead" ? button(t("admin.delivery.retry"),
      () => retry(ctx, row, reload), { icon: "refresh", "aria-label": t("admin.about", { what: t("admin.delivery.retry"), name: row.subject }) }) : null) },
  ], { caption: t("admin.deliveries"), captionHidden: true, rows: items, key: (row) => row.id });
}

// What the server writes down of a failed attempt, in English, and the words for it.
const GIVEN_UP = /^given up after (\d+) h: /;
const FAILURES = [
  [/^no answer within|did not answer within/, "no_answer"],
  [/^connection failed|cannot be reached/, "unreachable"],
  [/^the host cannot be found/, "no_host"],
  [/410 Gone/, "gone"],
  [/^the webhook was removed/, "removed"],
  [/redirects are not followed/, "redirect"],
  [/^the target answered/, "refused"],
  [/^there is no mail server/, "no_mail"],
  [/refuses the login/, "mail_login"],
  [/^the mail server/, "mail_refused"],
  [/is no mail address/, "no_address"],
  [/^http is refused|inside a private network|is no web address/, "not_allowed"],
];

/** Why an attempt failed: in words, and below them what the server wrote down, in English. */
function errorWords(error) {
  if (!error) return t("admin.none");
  const hours = GIVEN_UP.exec(error);
  const told = error.replace(GIVEN_UP, "");
  const [, word] = FAILURES.find(([like]) => like.test(told)) || [null, "other"];
  return h("div", { class: "stack tight failure" },
    h("span", {}, hours ? [t("admin.error.given_up", { hours: number(Number(hours[1])) }), " "] : null, t(`admin.error.${word}`)),
    h("span", { lang: "en", class: "mono" }, told));
}

async function retry(ctx, row, reload) {
  await attempt(async () => {
    await api.send("POST", `deliveries/${row.id}/retry`);
    ctx.announce(t("admin.delivery.retried"));
    await reload();
  });
}
