// The shell: session, navigation by hash, language, theme, the live line, and one view at a time.

import { h, clear, append, button, dialog, field, select } from "./dom.js";
import { icon } from "./icons.js";
import * as api from "./api.js";
import * as words from "./words.js";
import * as time from "./time.js";
import { Live } from "./live.js";
import { problemBox, problemWords, loading } from "./parts.js";

const { t } = words;

// Address (#/name/argument) -> module, the argument's name, what the account must be allowed to.
const VIEWS = {
  fleet: { module: "./fleet.js", scope: "read:fleet" },
  vehicle: { module: "./vehicle.js", argument: "device", scope: "read:fleet", under: "fleet" },
  incidents: { module: "./incidents.js", scope: "read:incidents" },
  incident: { module: "./story.js", argument: "id", scope: "read:incidents", under: "incidents" },
  titles: { module: "./titles.js", scope: "read:titles" },
  title: { module: "./titles.js", argument: "token", scope: "read:titles", under: "titles" },
  completeness: { module: "./completeness.js", argument: "month", scope: "read:fleet" },
  health: { module: "./health.js", scope: "read:fleet" },
  log: { module: "./log.js", scope: "read:log" },
  alarms: { module: "./alarms.js", scope: "read:log", under: "health" },
  audit: { module: "./audit.js", scope: "read:audit" },
  admin: { module: "./admin.js", argument: "tab" },
  login: { module: "./login.js", open: true },
  enter: { module: "./login.js", argument: "token", open: true },
};
const NAVIGATION = ["fleet", "incidents", "titles", "completeness", "health", "log", "audit", "admin"];
const IN_THE_BAR = 4;
const REFRESH_MS = 30_000;

const app = document.getElementById("app");
const live = new Live();
let session = null;
let view = { name: null, abort: null, cleanup: null };
let parts = {};
let lostAt = null;
let returnTo = null;
let message = null;

const ctx = {
  api,
  live,
  words,
  time,
  t,
  get session() { return session; },
  get language() { return words.language(); },
  navigate,
  announce,
  now: () => time.nowMs(),
  may: (scope) => Boolean(session && session.scopes.includes(scope)),
  /** Writes filters into the address without showing the view anew: {name: value or [values] or null}. */
  setQuery,
  /** Shows the present view anew. */
  reload: () => route(),
  /** Takes over a session (login) and goes to where one wanted to be. */
  enter,
  logout,
  switchLanguage,
  problemBox,
  title: setTitle,
};

// ---- address -------------------------------------------------------------------------------------------------

/** "#/incident/a.b.1?x=1" -> {name, argument, query}. */
function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  let argument = rest.join("/") || null;
  try {
    argument = argument && decodeURIComponent(argument);
  } catch { /* a stray per cent sign: taken as it stands */ }
  return { name: name || "fleet", argument, query: new URLSearchParams(query) };
}

function navigate(address, options = {}) {
  const hash = address.startsWith("#") ? address : `#${address}`;
  if (hash === location.hash) {
    route();
  } else if (options.replace) {
    history.replaceState(null, "", hash);
    route();
  } else {
    location.hash = hash;
  }
}

function setQuery(values) {
  const { query } = place();
  for (const [name, value] of Object.entries(values)) {
    query.delete(name);
    for (const one of [value].flat()) if (one !== null && one !== undefined && one !== "") query.append(name, one);
  }
  const text = query.toString();
  const path = location.hash.split("?")[0] || "#/fleet";
  history.replaceState(null, "", path + (text ? `?${text}` : ""));
}

/** Shows the view of the address. */
async function route() {
  const where = place();
  const known = VIEWS[where.name];
  leave();
  if (!session && !(known && known.open)) {
    returnTo = location.hash || null;
    history.replaceState(null, "", "#/login");
    return route();
  }
  if (session && where.name === "login") return navigate("#/fleet", { replace: true });
  const main = parts.main;
  const page = h("div", { class: `view view-${where.name}` }, loading());
  main.replaceChildren(page);
  mark(known ? known.under || where.name : null);
  view = { name: where.name, abort: new AbortController(), cleanup: null };
  const mine = view;
  try {
    await open(known, where, page, mine);
  } catch (error) {
    if (error.name === "AbortError" || mine !== view) return undefined;
    if (!(error instanceof api.ApiProblem)) console.error(error);
    clear(page).append(h("h1", { tabindex: "-1" }, t("shell.not_shown")), problemBox(error, () => route()));
  }
  if (mine === view) arrived(page);
  return undefined;
}

async function open(known, where, page, mine) {
  if (!known) throw new api.ApiProblem({ code: "no_view", status: 404 });
  if (known.scope && !ctx.may(known.scope)) throw new api.ApiProblem({ code: "no_scope", status: 403 });
  const module = await import(known.module);
  if (mine !== view) return;
  clear(page);
  const params = { name: where.name, query: where.query, message };
  if (known.argument) params[known.argument] = where.argument;
  message = null;
  const own = Object.create(ctx, { signal: { value: mine.abort.signal } });
  const cleanup = await module.show(page, own, params);
  if (mine !== view && cleanup) cleanup();
  else mine.cleanup = cleanup || null;
}

function leave() {
  if (view.abort) view.abort.abort();
  if (view.cleanup) view.cleanup();
  view = { name: null, abort: null, cleanup: null };
  for (const left of document.querySelectorAll("dialog[open]")) left.close();
}

let firstArrival = true;
function arrived(page) {
  const heading = page.querySelector("h1");
  setTitle(heading ? heading.textContent : null);
  if (firstArrival) {
    firstArrival = false;
    return;
  }
  window.scrollTo(0, 0);
  if (heading && !page.contains(document.activeElement)) heading.focus({ preventScroll: true });
}

function setTitle(text) {
  document.title = text ? `${text} · Holdfast` : "Holdfast";
}

function mark(name) {
  for (const link of app.querySelectorAll("nav a[data-view]")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (parts.nav) openMore(false);
}

// ---- session -------------------------------------------------------------------------------------------------

async function enter(made) {
  session = made;
  api.useToken(session.csrf);
  time.sync(session.now);
  const wanted = session.account.language;
  if (wanted && wanted !== words.language()) await words.load(wanted);
  build();
  live.start();
  const target = returnTo && !/^#\/(login|enter)/.test(returnTo) ? returnTo : "#/fleet";
  returnTo = null;
  navigate(target, { replace: true });
}

async function logout() {
  try {
    await api.send("DELETE", "session");
  } catch (error) {
    if (error.status !== 401) {
      announce(problemWords(error)[0]);
      return;
    }
  }
  forget(null);
}

/** The session is over: no data of it stays on the page. */
function forget(text) {
  live.stop();
  leave();
  if (text && session) returnTo = location.hash;
  session = null;
  message = text;
  api.useToken("");
  build();
  history.replaceState(null, "", "#/login");
  route();
}

async function switchLanguage(name) {
  await words.load(name);
  if (session) {
    api.send("PATCH", "session", { language: name }).then((changed) => {
      if (changed && changed.csrf) session = changed;
    }, () => { /* the page speaks it all the same; the account keeps its old one */ });
  }
  build();
  await route();
  document.getElementById("language").focus();
  announce(t("shell.language_is"));
}

// ---- frame ---------------------------------------------------------------------------------------------------

function build() {
  clear(app);
  parts = {
    main: h("main", { id: "main", tabindex: "-1" }),
    said: h("div", { class: "visually-hidden", role: "status", "aria-live": "polite", id: "announcer" }),
  };
  const skip = h("a", { class: "skip", href: "#main", onclick: (event) => {
    event.preventDefault();
    parts.main.focus();
  } }, t("shell.skip"));
  app.classList.toggle("signed-in", Boolean(session));
  parts.banner = h("div", { class: "banner-place" }, banner());
  append(app, [skip, parts.banner, header(), session ? navigation() : null, parts.main, footer(), parts.said]);
  connection();
  tick();
}

function banner() {
  const kinds = session ? session.clocks.filter((kind) => kind !== "live") : [];
  if (!kinds.length) return null;
  const what = kinds.length > 1 ? "both" : kinds[0];
  return h("aside", { class: "banner", "aria-label": t("shell.banner.label") }, icon("warning"),
    h("strong", {}, t(`shell.banner.${what}`)), h("span", {}, t(`shell.banner.${what}.text`)));
}

/** A row of another kind of clock has arrived: from now on the page says so, large. */
function seen(kind) {
  if (!session || !kind || session.clocks.includes(kind)) return;
  session.clocks = [...session.clocks, kind];
  clear(parts.banner).append(banner() || "");
  const named = parts.banner.querySelector("strong");
  if (named) announce(named.textContent);
  live.emit("clocks", session.clocks);
}

function header() {
  parts.line = h("span", { class: "line", role: "status" });
  const other = words.language() === "zh" ? "en" : "zh";
  return h("header", { class: "top" },
    h("a", { class: "brand", href: session ? "#/fleet" : "#/login" }, h("img", { src: "/page/icon.svg", alt: "", width: 22, height: 22 }),
      h("span", {}, "Holdfast")),
    session ? h("span", { class: "tenant" }, session.tenant) : null,
    h("div", { class: "spacer" }),
    session ? parts.line : null,
    h("button", { type: "button", class: "button quiet", lang: other === "zh" ? "zh-Hans" : "en", id: "language",
      onclick: () => switchLanguage(other) }, icon("language"), h("span", {}, other === "zh" ? "中文" : "English")),
    button(session ? session.account.name : t("shell.settings"), settings, { kind: "quiet", icon: session ? "user" : "theme",
      id: "settings", class: "who", "aria-haspopup": "dialog" }));
}

function navigation() {
  const shown = NAVIGATION.filter((name) => !VIEWS[name].scope || ctx.may(VIEWS[name].scope))
    .filter((name) => name !== "admin" || ctx.may("manage"));
  const entries = shown.map((name, index) => h("li", { class: index >= IN_THE_BAR && shown.length > IN_THE_BAR + 1 ? "later" : null },
    h("a", { href: name === "admin" ? "#/admin/accounts" : `#/${name}`, data: { view: name } }, icon(name), h("span", {}, t(`shell.nav.${name}`)))));
  parts.more = h("button", { type: "button", "aria-expanded": "false", "aria-controls": "navigation",
    onclick: () => openMore(!parts.nav.classList.contains("open")) }, icon("more"), h("span", {}, t("shell.nav.more")));
  parts.nav = h("nav", { class: "views", "aria-label": t("shell.nav.label"), onkeydown: (event) => {
    if (event.key === "Escape" && parts.nav.classList.contains("open")) {
      openMore(false);
      parts.more.focus();
    }
  } }, h("ul", { id: "navigation" }, entries,
    shown.length > IN_THE_BAR + 1 ? h("li", { class: "more" }, parts.more) : null));
  return parts.nav;
}

function openMore(open) {
  parts.nav.classList.toggle("open", open);
  parts.more.setAttribute("aria-expanded", String(open));
}

function footer() {
  parts.clock = h("span", {});
  return h("footer", { class: "foot" }, session ? h("span", {}, t("shell.version", { version: session.version })) : null,
    session ? h("span", {}, t("shell.zone_is", { zone: time.zone() })) : null, session ? parts.clock : null);
}

function tick() {
  if (!session || document.hidden || time.nowMs() === null) return;
  time.refresh(app);
  if (parts.clock) parts.clock.textContent = t("shell.server_time", { at: time.at(new Date(time.nowMs()).toISOString(), "always") });
}

function announce(text) {
  if (!parts.said) return;
  clear(parts.said);
  setTimeout(() => append(parts.said, [text]), 60);
}

// ---- the live line -------------------------------------------------------------------------------------------

function connection() {
  if (!session || !parts.line) return;
  const good = live.state === "live";
  const since = lostAt ? time.at(lostAt, "auto") : "";
  clear(parts.line).append(h("span", { class: `dot ${good ? "good" : "bad"}` }),
    document.createTextNode(good ? t("shell.line.live") : lostAt ? t("shell.line.lost", { at: since }) : t("shell.line.connecting")));
  parts.line.dataset.state = live.state;
  app.classList.toggle("offline", Boolean(lostAt) && !good);
}

live.on("state", (state) => {
  if (state === "lost" && !lostAt && time.nowMs() !== null) lostAt = new Date(time.nowMs()).toISOString();
  if (state === "live") lostAt = null;
  if (state === "ended") {
    api.get("session").catch(() => { /* a 401 ends the session by its own handler */ });
  }
  connection();
});
live.on("incident", (row) => seen(row.clock));
live.on("vehicles", (data) => {
  for (const row of data.items || []) seen(row.clock);
});
live.on("hello", (data) => data.now && time.sync(data.now));
live.on("reset", () => {
  announce(t("shell.line.reset"));
  route();
});

// ---- settings ------------------------------------------------------------------------------------------------

function theme() {
  return read("holdfast.theme") || "auto";
}

function setTheme(name) {
  write("holdfast.theme", name);
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  window.dispatchEvent(new Event("themechange"));
}

function read(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function write(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch { /* storage is switched off: the choice lasts until the page is closed */ }
}

function settings() {
  dialog(t("shell.settings"), (close) => {
    const zones = field(t("shell.zone"), select(time.zones().map((name) => [name, name]), time.zone(), (event) => {
      time.setZone(event.target.value);
      build();
      route();
    }), { hint: t("shell.zone.hint") });
    const modes = h("fieldset", { class: "choice" }, h("legend", {}, t("shell.theme")),
      ["auto", "light", "dark"].map((name) => h("label", {}, h("input", { type: "radio", name: "theme", value: name,
        checked: theme() === name, onchange: () => setTheme(name) }), h("span", {}, t(`shell.theme.${name}`)))));
    const account = session ? h("div", {}, h("p", {}, t("shell.you_are", { name: session.account.name,
      role: t(`shell.role.${session.account.role}`), tenant: session.tenant })),
    session.account.branches.length ? h("p", { class: "sub" }, t("shell.your_branches",
      { branches: session.account.branches.join(", ") })) : null) : null;
    return h("div", { class: "stack" }, account, modes, session ? zones.node : null,
      session ? h("div", { class: "actions" },
        h("a", { class: "button quiet", href: "#/admin/tokens", onclick: () => close() }, icon("key"), h("span", {}, t("shell.my_tokens"))),
        button(t("shell.password"), () => {
          close();
          password();
        }, { kind: "quiet", icon: "lock" }),
        button(t("shell.logout"), () => {
          close();
          logout();
        }, { icon: "logout" })) : null);
  });
}

function password() {
  dialog(t("shell.password"), (close) => {
    const old = field(t("shell.password.old"), { type: "password", autocomplete: "current-password", maxlength: 256 });
    const fresh = field(t("shell.password.new"), { type: "password", autocomplete: "new-password", maxlength: 256 },
      { hint: t("shell.password.hint") });
    const problem = h("div", {});
    return h("form", { class: "stack", novalidate: true, onsubmit: async (event) => {
      event.preventDefault();
      clear(problem);
      old.error(old.input.value ? null : t("shell.needed"));
      fresh.error(fresh.input.value.length < 12 ? t("shell.too_short", { n: 12 }) : null);
      if (!old.input.value || fresh.input.value.length < 12) return;
      try {
        await api.send("POST", "session/password", { old: old.input.value, new: fresh.input.value }, { quiet: true });
        close();
        announce(t("shell.password.done"));
      } catch (error) {
        problem.append(problemBox(error));
      }
    } }, problem, old.node, fresh.node, h("div", { class: "actions" },
      h("button", { type: "submit", class: "button primary" }, h("span", {}, t("shell.save"))),
      button(t("shell.cancel"), () => close())));
  });
}

// ---- start ---------------------------------------------------------------------------------------------------

async function start() {
  if (theme() !== "auto") setTheme(theme());
  const asked = api.get("session", {}, { quiet: true }).then((found) => ({ found }), (error) => ({ error }));
  await words.load(words.preferred());
  api.handlers({ now: time.sync, unauthorized: () => {
    if (session) forget(t("shell.session_over"));
  } });
  const { found, error } = await asked;
  window.addEventListener("hashchange", () => route());
  setInterval(tick, REFRESH_MS);
  if (found) {
    const where = location.hash;
    if (/^#\/enter\//.test(where)) {
      session = null;
      build();
      await route();
      return;
    }
    returnTo = where || null;
    await enter(found);
    return;
  }
  build();
  if (error.status !== 401) {
    parts.main.append(h("h1", {}, "Holdfast"), problemBox(error, () => location.reload()));
    return;
  }
  await route();
}

start().catch((error) => {
  console.error(error);
  append(clear(app), [h("main", {}, h("h1", {}, "Holdfast"),
    h("p", {}, "The page could not start. Check the connection and load it again. / 页面无法启动，请检查网络后重新加载。"))]);
});
