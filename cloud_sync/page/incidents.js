// The list of incidents, the worst first; new ones appear as they are committed.

import { h, clear, field, select, tableRow, table, badge } from "./dom.js";
import { t } from "./words.js";
import * as api from "./api.js";
import * as time from "./time.js";
import { CASES, CAUSES, caseState, cause, clockMark, emptyBox, head, loading, placeText, printButton,
  problemBox } from "./parts.js";
import { chips, later, pager, soon, sure, told } from "./bits.js";

const UNSETTLED = ["open", "escalated", "acknowledged", "assigned"];
const TONES = { open: "bad", escalated: "bad", acknowledged: "warn", assigned: "warn", confirmed: "bad",
  refuted: "good", closed: "mute" };
const SIGNS = { open: "incident", escalated: "escalate", acknowledged: "check", assigned: "user",
  confirmed: "incident", refuted: "close", closed: "ok" };
const PAGE = 50;
const SORTS = ["worst", "newest", "oldest"];
const TYPING_MS = 300;
const COUNT_AFTER_MS = 1500;

const COLUMNS = () => [
  { label: t("incident.state"), hideLabel: true, cell: (row) => h("div", { class: "marks" }, caseState(row.state),
    clockMark(row.clock), row.fresh
    ? badge(t("incident.new"), "accent", "plus", { class: "new-mark" }) : null) },
  { label: t("incident.what"), head: true, class: "what", hideLabel: true, cell: (row) => h("div", { class: "stack tight" },
    h("a", { href: `#/incident/${encodeURIComponent(row.id)}`, class: "strong" }, cause(row.cause)), h("p", {}, told(row)),
    row.device_open || row.state === "closed" ? null : h("p", { class: "sub" }, t("incident.device_closed"))) },
  { label: t("incident.vehicle"), cell: (row) => h("div", {}, h("a",
    { href: `#/vehicle/${encodeURIComponent(row.device)}` }, row.name),
    row.branch ? h("div", { class: "sub" }, row.branch) : null) },
  { label: t("incident.opened"), cell: (row) => h("div", {}, began(row.opened),
    h("div", { class: "sub" }, time.agoNode(row.opened.at))) },
  { label: t("incident.sure"), cell: (row) => sure(row.confidence) },
  { label: t("incident.assignee"), cell: (row) => row.assignee || h("span", { class: "none" }, t("incident.nobody")) },
  { label: t("incident.place"), cell: (row) => (row.place_of === "vehicle" && row.place ? h("div", {}, placeText(row.place),
    h("div", { class: "sub" }, t("incident.place.newest"), " ", row.place.at ? time.agoNode(row.place.at.at) : "–"))
    : placeText(row.place)) },
];

/** The view: #/incidents?state=&cause=&branch=&assignee=&q=&sort= */
export async function show(main, ctx, params) {
  const view = new Incidents(main, ctx, params.query);
  await view.load();
  return () => view.end();
}

class Incidents {
  constructor(main, ctx, query) {
    this.ctx = ctx;
    const states = query.getAll("state").filter((state) => CASES.includes(state));
    this.filter = {
      state: new Set(states.length ? states : query.get("state") === "all" ? [] : UNSETTLED),
      cause: CAUSES.includes(query.get("cause")) ? query.get("cause") : "",
      branch: query.get("branch") || "", device: query.get("device") || "", assignee: query.get("assignee") || "",
      q: query.get("q") || "", sort: SORTS.includes(query.get("sort")) ? query.get("sort") : "worst",
    };
    this.known = new Map();
    this.rows = [];
    this.total = 0;
    this.next = null;
    this.counts = {};
    this.seenSince = new Set();
    this.chipBox = h("div", {});
    this.listBox = h("div", { class: "stack" });
    this.summary = h("p", { class: "sub", role: "status" });
    main.append(head(t("incident.title"), this.summary, [printButton()]), this.tools(), this.chipBox, this.listBox);
    this.recount = soon(() => this.count(), COUNT_AFTER_MS);
    this.typed = later(() => this.change({}), TYPING_MS);
    this.stop = ctx.live.on("incident", (row) => this.arrived(row));
    this.signal = ctx.signal;
  }

  end() {
    this.stop();
    this.recount.stop();
    this.typed.stop();
  }

  tools() {
    const { branches, accounts } = this.ctx.session;
    const me = this.ctx.session.account.name;
    const pick = (name, label, options) => field(label, select(options, this.filter[name],
      (event) => this.change({ [name]: event.target.value }))).node;
    const search = field(t("incident.search"), { type: "search", value: this.filter.q, maxlength: 80,
      autocomplete: "off", oninput: (event) => {
      this.filter.q = event.target.value.trim();
      this.typed();
    } }, { class: "grow" });
    return h("div", { class: "toolbar" }, search.node,
      pick("cause", t("incident.cause"), [["", t("incident.all_causes")], ...CAUSES.map((name) => [name, cause(name)])]),
      branches.length ? pick("branch", t("incident.branch"), [["", t("incident.all_branches")],
        ...branches.map((name) => [name, name])]) : null,
      pick("assignee", t("incident.assignee"), [["", t("incident.anybody")], ["me", t("incident.me")],
        ...accounts.filter((name) => name !== me).map((name) => [name, name])]),
      pick("sort", t("incident.sort"), SORTS.map((name) => [name, t(`incident.sort.${name}`)])));
  }

  asked(more = {}) {
    const { state, ...rest } = this.filter;
    return { ...rest, state: [...state], limit: PAGE, ...more };
  }

  change(values) {
    Object.assign(this.filter, values);
    const { state, sort, ...rest } = this.filter;
    const usual = state.size === UNSETTLED.length && UNSETTLED.every((one) => state.has(one));
    this.ctx.setQuery({ ...rest, state: usual ? null : state.size ? [...state] : "all", sort: sort === "worst" ? null : sort });
    this.load();
  }

  async load() {
    const asked = Symbol("load");
    this.asking = asked;
    if (!this.rows.length) clear(this.listBox).append(loading());
    try {
      const found = await api.get("incidents", this.asked(), { signal: this.signal });
      if (this.asking !== asked) return;
      this.rows = found.items;
      this.take(found);
    } catch (error) {
      if (error.name === "AbortError" || this.asking !== asked) return;
      clear(this.listBox).append(problemBox(error, () => this.load()));
    }
  }

  take(found) {
    Object.assign(this, { next: found.next, total: found.total, counts: found.counts });
    for (const row of this.rows) row.fresh = this.seenSince.has(row.id);
    this.known = new Map(this.rows.map((row) => [row.id, row]));
    this.drawChips();
    this.draw();
  }

  async more() {
    try {
      const found = await api.get("incidents", this.asked({ cursor: this.next }), { signal: this.signal });
      const before = this.rows.length;
      this.rows.push(...found.items.filter((row) => !this.known.has(row.id)));
      this.take(found);
      const row = this.body && this.body.children[before];
      if (row) row.querySelector("a").focus();
    } catch (error) {
      if (error.name !== "AbortError") this.listBox.append(problemBox(error, () => this.more()));
    }
  }

  async count() {
    try {
      const found = await api.get("incidents", this.asked({ limit: 1 }), { signal: this.signal });
      this.counts = found.counts;
      this.total = found.total;
      this.drawChips();
      this.drawPager();
    } catch { /* the chips keep their figures; the line of the shell says that the server is away */ }
  }

  drawChips() {
    const focused = document.activeElement && this.chipBox.contains(document.activeElement)
      ? document.activeElement.dataset.key : null;
    clear(this.chipBox).append(chips(t("incident.by_state"), CASES.map((state) => ({
      key: state, label: t(`shell.case.${state}`), count: this.counts[state] || 0, tone: TONES[state], icon: SIGNS[state],
    })), this.filter.state, (state) => {
      const states = new Set(this.filter.state);
      if (!states.delete(state)) states.add(state);
      this.change({ state: states });
    }));
    if (focused) this.chipBox.querySelector(`[data-key="${focused}"]`).focus();
    const waiting = (this.counts.open || 0) + (this.counts.escalated || 0);
    this.summary.textContent = waiting ? t("incident.waiting", { n: waiting }) : t("incident.none_waiting");
  }

  draw() {
    if (!this.rows.length) {
      this.body = null;
      clear(this.listBox);
      this.empty();
      return;
    }
    const made = table(COLUMNS(), { class: "incidents", caption: t("incident.caption"), captionHidden: true,
      rows: this.rows, key: (row) => row.id,
      rowClass: (row) => `severe-${severity(row.severity)}${row.fresh ? " fresh" : ""}` });
    this.body = made.querySelector("tbody");
    this.pagerBox = h("div", {});
    clear(this.listBox).append(made, this.pagerBox);
    this.drawPager();
  }

  drawPager() {
    if (!this.pagerBox) return;
    clear(this.pagerBox);
    const node = pager(this.rows.length, Math.max(this.total, this.rows.length), this.next, () => this.more());
    if (node) this.pagerBox.append(node);
  }

  async empty() {
    const f = this.filter;
    const narrowed = f.cause || f.branch || f.device || f.assignee || f.q;
    const unsettled = f.state.size && [...f.state].every((state) => UNSETTLED.includes(state));
    if (narrowed || !unsettled) {
      this.listBox.append(emptyBox(t("incident.empty.filter"), t("incident.empty.filter.text")));
      return;
    }
    const box = emptyBox(t("incident.empty"), null);
    this.listBox.append(box);
    try {
      const past = await api.get("incidents", { state: ["confirmed", "refuted", "closed"], sort: "newest",
        limit: 20 }, { signal: this.signal });
      const ends = past.items.map((row) => row.closed_at || row.updated_at).sort();
      box.append(h("p", {}, ends.length ? t("incident.empty.since", { at: time.at(ends.at(-1), "always"),
        ago: time.ago(ends.at(-1)) }) : t("incident.empty.never")));
    } catch { /* the sentence above is true without it */ }
  }

  // -- live

  matches(row) {
    const f = this.filter;
    const who = f.assignee === "me" ? this.ctx.session.account.name : f.assignee;
    return (!f.state.size || f.state.has(row.state)) && (!f.cause || f.cause === row.cause)
      && (!f.branch || f.branch === row.branch)
      && (!f.device || f.device === row.device) && (!who || who === row.assignee);
  }

  arrived(row) {
    const before = this.known.get(row.id);
    this.recount();
    if (before) {
      Object.assign(before, row, { fresh: before.fresh });
      this.exchange(before);
      return;
    }
    if (!this.matches(row)) return;
    if (this.filter.q) {
      this.typed();
      return;
    }
    const isNew = row.version === 0 && row.state === "open";
    if (isNew) {
      this.seenSince.add(row.id);
      this.ctx.announce(t("incident.announce", { cause: cause(row.cause), name: row.name }));
    }
    const at = this.position(row);
    if (at === this.rows.length && this.next) return;
    row.fresh = isNew;
    this.known.set(row.id, row);
    this.rows.splice(at, 0, row);
    this.total += 1;
    if (!this.body) this.draw();
    else {
      this.body.insertBefore(this.made(row), this.body.children[at] || null);
      this.drawPager();
    }
  }

  position(row) {
    const after = {
      worst: (other) => other.severity < row.severity || (other.severity === row.severity && other.opened.at <= row.opened.at),
      newest: (other) => other.opened.at <= row.opened.at,
      oldest: (other) => other.opened.at > row.opened.at,
    }[this.filter.sort];
    const at = this.rows.findIndex(after);
    return at < 0 ? this.rows.length : at;
  }

  made(row) {
    return tableRow(COLUMNS(), row, { key: (one) => one.id,
      rowClass: () => `severe-${severity(row.severity)}${row.fresh ? " fresh" : ""}` });
  }

  exchange(row) {
    const old = this.body && [...this.body.children].find((one) => one.dataset.key === row.id);
    if (!old) return;
    const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    const fresh = this.made(row);
    if (!this.matches(row)) fresh.classList.add("left");
    old.replaceWith(fresh);
    if (focused) {
      const link = [...fresh.querySelectorAll("a")].find((one) => one.getAttribute("href") === focused);
      if (link) link.focus();
    }
  }
}

/** Time and, on a line of its own, its uncertainty. */
function began(moment) {
  if (moment.unc_ms === null) return time.momentNode(moment);
  return h("span", {}, time.atNode(moment.at), h("span", { class: "sub block" }, time.plusMinus(moment.unc_ms)));
}

function severity(value) {
  return value >= 700 ? "high" : value >= 400 ? "middle" : "low";
}

