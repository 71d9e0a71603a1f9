// Coming in: local accounts, an identity provider where one is configured, the one-time link.

import { h, field, clear } from "./dom.js";
import { icon } from "./icons.js";
import { t } from "./words.js";
import { problemBox } from "./parts.js";

const PASSWORD_MIN = 12;

/** Shows the login, or for #/enter/<token> the setting of a password. */
export async function show(main, ctx, params) {
  if (params.name === "enter") return entering(main, ctx, params.token || "");
  const entry = await ctx.api.get("entry", {}, { signal: ctx.signal });
  const name = field(t("shell.login.name"), { name: "name", autocomplete: "username", maxlength: 80, autocapitalize: "none", spellcheck: "false" });
  const password = field(t("shell.login.password"), { name: "password", type: "password", autocomplete: "current-password", maxlength: 256 });
  const problem = h("div", {});
  const submit = h("button", { type: "submit", class: "button primary wide" }, h("span", {}, t("shell.login.go")));
  const form = h("form", { class: "stack", novalidate: true, onsubmit: async (event) => {
    event.preventDefault();
    clear(problem);
    if (!filled(name, password)) return;
    await sending(submit, problem, async () => ctx.enter(await ctx.api.send("POST", "session",
      { name: name.input.value.trim(), password: password.input.value }, { quiet: true })));
    password.input.value = "";
  } }, problem, name.node, password.node, submit);
  main.append(frame(t("shell.login.title"), [
    params.message ? h("p", { class: "notice note", role: "status" }, icon("info"), params.message) : null,
    entry.first ? h("p", { class: "notice note" }, icon("info"), t("shell.login.first")) : form,
    entry.oidc ? h("a", { class: "button wide", href: "/auth/oidc/start" }, icon("key"),
      h("span", {}, t("shell.login.oidc", { name: entry.oidc }))) : null,
  ], t("shell.version", { version: entry.version })));
  if (!entry.first) name.input.focus();
  return null;
}

async function entering(main, ctx, token) {
  const entry = await ctx.api.get("entry", {}, { signal: ctx.signal });
  const name = field(t("shell.enter.name"), { name: "name", autocomplete: "username", maxlength: 80, autocapitalize: "none", spellcheck: "false" },
    { hint: t("shell.enter.name.hint") });
  const password = field(t("shell.password.new"), { name: "password", type: "password", autocomplete: "new-password", maxlength: 256 },
    { hint: t("shell.password.hint") });
  const again = field(t("shell.password.again"), { type: "password", autocomplete: "new-password", maxlength: 256 });
  const problem = h("div", {});
  const submit = h("button", { type: "submit", class: "button primary wide" }, h("span", {}, t("shell.enter.go")));
  const form = h("form", { class: "stack", novalidate: true, onsubmit: async (event) => {
    event.preventDefault();
    clear(problem);
    if (!chosen(password, again) || (entry.first && !filled(name))) return;
    const body = { token, password: password.input.value, language: ctx.language };
    if (entry.first) body.name = name.input.value.trim();
    await sending(submit, problem, async () => ctx.enter(await ctx.api.send("POST", "enter", body, { quiet: true })));
  } }, problem, entry.first ? name.node : null, password.node, again.node, submit);
  main.append(frame(t(entry.first ? "shell.enter.first" : "shell.enter.title"),
    [h("p", { class: "sub" }, t("shell.enter.once")), form], t("shell.version", { version: entry.version })));
  (entry.first ? name : password).input.focus();
  return null;
}

function frame(title, content, foot) {
  return h("div", { class: "login" }, h("div", { class: "card" },
    h("img", { src: "/page/icon.svg", alt: "", width: 40, height: 40 }), h("h1", { tabindex: "-1" }, title), content),
  h("p", { class: "sub" }, foot));
}

function filled(...fields) {
  let first = null;
  for (const one of fields) {
    const missing = !one.input.value.trim();
    one.error(missing ? t("shell.needed") : null);
    if (missing && !first) first = one;
  }
  if (first) first.input.focus();
  return !first;
}

function chosen(password, again) {
  const short = password.input.value.length < PASSWORD_MIN;
  const differ = password.input.value !== again.input.value;
  password.error(short ? t("shell.too_short", { n: PASSWORD_MIN }) : null);
  again.error(!short && differ ? t("shell.password.differ") : null);
  if (short) password.input.focus();
  else if (differ) again.input.focus();
  return !short && !differ;
}

async function sending(submit, problem, work) {
  submit.disabled = true;
  try {
    await work();
  } catch (error) {
    problem.append(problemBox(error));
  } finally {
    submit.disabled = false;
  }
}
