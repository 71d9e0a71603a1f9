// The fleet: list and map side by side, the worst first. The list is paged; live changes appear in place, and rows
// change their order only while nobody points at or stands in the list.

import { h, clear, append, button, field, select } from "./dom.js";
import { icon } from "./icons.js";
import { t, say, number, language } from "./words.js";
import * as time from "./time.js";
import { VEHICLE_STATES, CAUSES, vehicleState, titleState, clockMark, placeText, coordinates, problemBox, emptyBox, loading, head,
  printButton, cause } from "./parts.js";
import { openMap } from "./map.js";

const PAGE = 50;
const MOST_ROWS = 500;
const SORTS = ["worst", "name", "heard", "health"];
const STATES = Object.keys(VEHICLE_STATES);
const SEARCH_PAUSE_MS = 350;
const MAP_PAUSE_MS = 400;
const COUNTS_AFTER_MS = 8_000;
const COUNTS_SPREAD_MS = 12_000;
const REASONS_SHOWN = 2;

/** Shows the fleet; params.query holds the filters. */
export async function show(main, ctx, params) {
  const fleet = new Fleet(main, ctx, params.query);
  await fleet.start();
  return () => fleet.stop();
}

class Fleet {
  constructor(main, ctx, query) {
    this.main = main;
    this.ctx = ctx;
    this.filter = {
      state: query.getAll("state").filter((state) => STATES.includes(state)),
      branch: query.get("branch") || "",
      cause: CAUSES.includes(query.get("cause")) ? query.get("cause") : "",
      q: query.get("q") || "",
      sort: SORTS.includes(query.get("sort")) ? query.get("sort") : "worst",
    };
    this.mixed = ctx.session.clocks.length > 1;
    this.rows = new Map();
    this.waiting = new Map();
    this.counts = {};
    this.total = 0;
    this.nodes = 0;
    this.next = null;
    this.mapWanted = read("holdfast.map", matchMedia("(min-width: 640px)").matches ? "1" : "0") === "1";
  }

  async start() {
    this.build();
    this.offs = [this.ctx.live.on("vehicles", (data) => this.changed(data.items || [])),
      this.ctx.live.on("clocks", (kinds) => {
        this.mixed = kinds.length > 1;
        this.load();
      })];
    await Promise.all([this.load(), this.mapWanted ? this.openMap() : null]);
  }

  stop() {
    this.over = true;
    for (const off of this.offs) off();
    clearTimeout(this.searchTimer);
    clearTimeout(this.countsTimer);
    clearTimeout(this.mapTimer);
    if (this.map) this.map.destroy();
  }

  // ---- frame -------------------------------------------------------------------------------------------------

  build() {
    this.mapButton = button("", () => this.toggleMap(), { kind: "quiet", icon: "pin", "aria-expanded": "false" });
    this.head = head(t("fleet.title"), "", [this.mapButton, printButton()]);
    this.sub = this.head.querySelector(".sub") || this.head.firstChild.appendChild(h("p", { class: "sub" }));
    this.chips = h("div", { class: "chips", role: "group", "aria-label": t("fleet.states") });
    this.list = h("ol", { class: "vehicles", "aria-label": t("fleet.list"),
      onpointerover: (event) => this.point(event), onfocusin: (event) => this.point(event) });
    this.body = h("div", {}, loading());
    this.news = h("button", { type: "button", class: "button primary news", hidden: true, onclick: () => this.order() });
    this.pager = h("div", { class: "pager" });
    this.listPart = h("section", { class: "fleet-list", "aria-label": t("fleet.list"), onpointerleave: (event) => {
      this.point(event);
      this.free();
    } }, this.body, this.news, this.pager);
    this.mapNode = h("div", {});
    this.mapNote = h("div", { class: "map-note" });
    this.mapPart = h("section", { class: "fleet-map", hidden: !this.mapWanted, "aria-label": t("fleet.show_map") }, this.mapNode, this.mapNote);
    this.split = h("div", { class: "fleet-split" }, this.listPart, this.mapPart);
    append(this.main, [this.head, this.chips, this.toolbar(), this.split]);
    this.showMapButton();
  }

  toolbar() {
    const { session } = this.ctx;
    const search = field(t("fleet.search"), h("input", { type: "search", value: this.filter.q, maxlength: 80, autocomplete: "off",
      spellcheck: "false", oninput: (event) => {
        clearTimeout(this.searchTimer);
        this.searchTimer = setTimeout(() => this.refine({ q: event.target.value.trim() }), SEARCH_PAUSE_MS);
      } }), { class: "grow" });
    const branch = session.branches.length ? field(t("fleet.branch"), select([["", t("fleet.branch.all")],
      ...session.branches.map((name) => [name, name])], this.filter.branch,
    (event) => this.refine({ branch: event.target.value }))) : null;
    const causes = field(t("fleet.cause"), select([["", t("fleet.cause.all")], ...CAUSES.map((name) => [name, cause(name)])],
      this.filter.cause, (event) => this.refine({ cause: event.target.value })));
    const sort = field(t("fleet.sort"), select(SORTS.map((name) => [name, t(`fleet.sort.${name}`)]), this.filter.sort,
      (event) => this.refine({ sort: event.target.value })));
    this.bar = h("form", { class: "toolbar", role: "search", "aria-label": t("fleet.filters"), onsubmit: (event) => {
      event.preventDefault();
      clearTimeout(this.searchTimer);
      this.refine({ q: search.input.value.trim() });
    } }, search.node, branch ? branch.node : null, causes.node, sort.node);
    return this.bar;
  }

  showChips() {
    const { state } = this.filter;
    const all = STATES.reduce((sum, name) => sum + (this.counts[name] || 0), 0);
    const chip = (name, label, sign, tone, count, pressed) => h("button", { type: "button", class: `chip tone-${tone}`,
      "aria-pressed": String(pressed), data: { state: name }, onclick: () => this.pick(name) },
    sign ? icon(sign) : null, h("span", {}, label), h("span", { class: "count" }, number(count)));
    const focused = document.activeElement && this.chips.contains(document.activeElement) ? document.activeElement.dataset.state : null;
    clear(this.chips).append(chip("", t("fleet.all"), null, "mute", all, state.length === 0),
      ...STATES.map((name) => chip(name, t(`shell.vehicle.${name}`), VEHICLE_STATES[name][1], VEHICLE_STATES[name][0],
        this.counts[name] || 0, state.includes(name))));
    if (focused !== null) this.chips.querySelector(`[data-state="${focused}"]`).focus();
    this.sub.textContent = this.counted();
  }

  /** "8 vehicles and 1 roadside node, the worst first" */
  counted() {
    const cars = this.total - this.nodes;
    const said = t("fleet.sub.vehicles", { n: cars === 1 ? 1 : number(cars) });
    const nodes = this.nodes ? t("fleet.sub.nodes", { n: this.nodes === 1 ? 1 : number(this.nodes) }) : "";
    return t(this.total > 1 ? "fleet.sub" : "fleet.sub.alone", { what: nodes ? t("fleet.sub.both", { cars: said, nodes }) : said });
  }

  pick(name) {
    const { state } = this.filter;
    this.refine({ state: name === "" ? [] : state.includes(name) ? state.filter((one) => one !== name) : [...state, name] });
  }

  refine(change) {
    Object.assign(this.filter, change);
    this.ctx.setQuery({ ...this.filter, sort: this.filter.sort === "worst" ? null : this.filter.sort });
    if (this.map) this.map.show(this.drawn());
    this.noteMap();
    this.load();
  }

  filtered() {
    const { state, branch, cause: why, q } = this.filter;
    return Boolean(state.length || branch || why || q);
  }

  // ---- list --------------------------------------------------------------------------------------------------

  async load() {
    const turn = (this.turn = (this.turn || 0) + 1);
    this.list.setAttribute("aria-busy", "true");
    try {
      const found = await this.ctx.api.get("vehicles", { ...this.filter, limit: PAGE }, { signal: this.ctx.signal });
      if (turn !== this.turn || this.over) return;
      this.take(found);
    } catch (error) {
      if (error.name === "AbortError" || turn !== this.turn) return;
      clear(this.body).append(problemBox(error, () => this.load()));
      clear(this.pager);
    } finally {
      this.list.setAttribute("aria-busy", "false");
    }
  }

  take(found) {
    this.rows.clear();
    this.waiting.clear();
    clear(this.list);
    this.counts = found.counts;
    this.total = found.total;
    this.nodes = found.nodes;
    this.next = found.next;
    for (const row of found.items) this.append(row);
    clear(this.body).append(found.items.length ? this.list : this.empty());
    this.showChips();
    this.showNews();
    this.showPager();
    if (this.announced !== undefined) this.ctx.announce(this.counted());
    this.announced = found.total;
  }

  empty() {
    if (!this.filtered()) return emptyBox(t("fleet.empty.none"), t("fleet.empty.none.text"));
    return emptyBox(t("fleet.empty.filter"), t("fleet.empty.filter.text"), button(t("fleet.clear"), () => {
      this.bar.reset();
      for (const control of this.bar.elements) if ("value" in control && control.tagName !== "BUTTON") control.value = control.tagName === "SELECT" ? control.options[0].value : "";
      this.refine({ state: [], branch: "", cause: "", q: "", sort: "worst" });
    }, { icon: "close" }));
  }

  append(row) {
    const node = vehicle(row, this.mixed);
    this.rows.set(row.device, { row, node });
    this.list.append(node);
  }

  showPager() {
    clear(this.pager);
    if (!this.rows.size) return;
    this.pager.append(h("span", { class: "sub" }, t("fleet.shown", { n: number(this.rows.size), total: number(this.total) })));
    if (this.next) this.pager.append(button(t("fleet.more"), () => this.more(), { icon: "down" }));
  }

  /** The next page below the last; beyond MOST_ROWS instead of the ones before, so that the page stays light. */
  async more() {
    try {
      const found = await this.ctx.api.get("vehicles", { ...this.filter, limit: PAGE, cursor: this.next }, { signal: this.ctx.signal });
      if (this.over) return;
      if (this.rows.size + found.items.length > MOST_ROWS) {
        this.rows.clear();
        clear(this.list);
        window.scrollTo(0, 0);
      }
      this.next = found.next;
      const fresh = found.items.filter((row) => !this.rows.has(row.device));
      for (const row of fresh) this.append(row);
      this.showPager();
      if (fresh.length) this.rows.get(fresh[0].device).node.querySelector("a").focus();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.code === "bad_cursor") {
        this.load();
        return;
      }
      clear(this.pager).append(problemBox(error, () => this.more()));
    }
  }

  // ---- live --------------------------------------------------------------------------------------------------

  changed(items) {
    const said = [];
    for (const row of items) {
      const before = this.rows.get(row.device);
      const known = before ? before.row.state : this.map ? this.map.stateOf(row.device) : null;
      this.count(known, row.state);
      if (before) this.exchange(before, row);
      else if (this.matches(row)) this.waiting.set(row.device, row);
      if (known !== row.state && this.matches(row)) said.push(row);
      if (this.map && row.place) this.map.change(row.device, row.place.lat, row.place.lon, row.state, row.name);
    }
    if (this.map && !this.mapTimer) {
      this.mapTimer = setTimeout(() => {
        this.mapTimer = null;
        this.map.regroup();
      }, MAP_PAUSE_MS);
    }
    this.free();
    this.showChips();
    if (said.length === 1) this.ctx.announce(t("fleet.changed", { name: said[0].name, state: t(`shell.vehicle.${said[0].state}`) }));
    else if (said.length) this.ctx.announce(t("fleet.changed_many", { n: said.length }));
  }

  /** Counts by state follow what is known here; what is not known is asked for, later and spread over the viewers. */
  count(before, after) {
    if (before && !this.filter.branch && !this.filter.cause && !this.filter.q) {
      if (before !== after) {
        this.counts[before] = Math.max(0, (this.counts[before] || 0) - 1);
        this.counts[after] = (this.counts[after] || 0) + 1;
      }
      return;
    }
    if (this.countsTimer) return;
    this.countsTimer = setTimeout(async () => {
      this.countsTimer = null;
      try {
        const found = await this.ctx.api.get("vehicles", { ...this.filter, limit: 1 }, { signal: this.ctx.signal });
        this.counts = found.counts;
        this.total = found.total;
        this.nodes = found.nodes;
        this.showChips();
        this.showPager();
      } catch { /* the next change asks again */ }
    }, COUNTS_AFTER_MS + Math.random() * COUNTS_SPREAD_MS);
  }

  matches(row) {
    const { state, branch, cause: why, q } = this.filter;
    const text = q.toLowerCase();
    return (!state.length || state.includes(row.state)) && (!branch || row.branch === branch) && (!why || row.cause === why)
      && (!text || row.name.toLowerCase().includes(text) || row.device.includes(text));
  }

  /** Writes a row anew where it stands; its place in the order is settled by order(). */
  exchange(entry, row) {
    const moves = entry.row.rank !== row.rank || entry.row.state !== row.state;
    const node = vehicle(row, this.mixed);
    const focused = entry.node.contains(document.activeElement) ? document.activeElement.dataset.link : null;
    entry.node.replaceWith(node);
    if (focused) {
      const link = node.querySelector(`[data-link="${focused}"]`) || node.querySelector("a");
      link.focus({ preventScroll: true });
    }
    if (moves) node.classList.add("fresh");
    this.rows.set(row.device, { row, node });
    if (moves && this.filter.sort === "worst") this.waiting.set(row.device, row);
  }

  busy() {
    return this.listPart.matches(":hover") || this.listPart.contains(document.activeElement) || window.scrollY > 400;
  }

  /** Puts the rows in order when that disturbs nobody; else says that there is something to put in order. */
  free() {
    if (this.waiting.size && !this.busy()) this.settle();
    this.showNews();
  }

  order() {
    this.settle();
    this.showNews();
    window.scrollTo(0, 0);
    const first = this.list.querySelector("a");
    if (first) first.focus();
  }

  settle() {
    if (!this.rows.size && this.waiting.size) {
      clear(this.body).append(this.list);
      this.list.replaceChildren();
    }
    for (const row of this.waiting.values()) {
      const entry = this.rows.get(row.device);
      if (entry && !this.matches(row)) {
        entry.node.remove();
        this.rows.delete(row.device);
        continue;
      }
      const node = entry ? entry.node : vehicle(row, this.mixed);
      if (!entry) node.classList.add("fresh");
      this.rows.set(row.device, { row, node });
      node.remove();
      const after = this.filter.sort === "worst" ? [...this.list.children].find((other) => this.below(row, other.dataset.device)) : this.list.firstChild;
      this.list.insertBefore(node, after || null);
    }
    this.waiting.clear();
    this.showPager();
  }

  below(row, device) {
    const other = this.rows.get(device).row;
    return other.rank < row.rank || (other.rank === row.rank && other.device > row.device);
  }

  showNews() {
    this.news.hidden = this.waiting.size === 0;
    clear(this.news).append(icon("up"), h("span", {}, t("fleet.news", { n: this.waiting.size })));
  }

  // ---- map ---------------------------------------------------------------------------------------------------

  drawn() {
    const { state } = this.filter;
    return (name) => !state.length || state.includes(name);
  }

  showMapButton() {
    this.mapButton.querySelector("span").textContent = t(this.mapWanted ? "fleet.hide_map" : "fleet.show_map");
    this.mapButton.setAttribute("aria-expanded", String(this.mapWanted));
    this.split.classList.toggle("no-map", !this.mapWanted);
    this.mapPart.hidden = !this.mapWanted;
  }

  async toggleMap() {
    this.mapWanted = !this.mapWanted;
    write("holdfast.map", this.mapWanted ? "1" : "0");
    this.showMapButton();
    if (this.mapWanted && !this.map) await this.openMap();
  }

  async openMap() {
    try {
      const asked = this.ctx.api.get("map", {}, { signal: this.ctx.signal });
      const map = await openMap(this.mapNode, this.ctx, { onVehicle: (device) => this.ctx.navigate(`#/vehicle/${encodeURIComponent(device)}`),
        onPlaces: () => this.noteMap() });
      if (this.over) {
        map.destroy();
        return;
      }
      this.map = map;
      const found = await asked;
      if (this.over) return;
      this.unplaced = found.unplaced;
      map.setVehicles(found, this.drawn());
      map.fit();
      this.noteMap();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (this.map) {
        this.map.destroy();
        this.map = null;
      }
      clear(this.mapNode);
      this.mapNode.className = "";
      clear(this.mapNote).append(problemBox(error.code ? error : { code: "network" }, () => this.openMap()));
    }
  }

  noteMap() {
    if (!this.map) return;
    const { tiles, attribution } = this.ctx.session.map;
    const narrowed = this.filter.branch || this.filter.cause || this.filter.q;
    clear(this.mapNote).append(
      h("span", { class: "legend" }, STATES.map((name) => h("span", {}, h("span", { class: `pin-${name}` }, icon(VEHICLE_STATES[name][1])),
        t(`shell.vehicle.${name}`)))),
      this.map.places.length ? h("span", { class: "places-key" }, t("fleet.map.places")) : "",
      h("span", {}, t("fleet.map.coarse")), tiles ? "" : h("span", {}, t("fleet.map.grid")),
      attribution ? h("span", {}, attribution) : "",
      this.unplaced ? h("span", {}, t("fleet.map.unplaced", { n: number(this.unplaced) })) : "",
      narrowed ? h("span", {}, t("fleet.map.all_shown")) : "");
    if (!this.fitButton) this.fitButton = button(t("fleet.map.fit"), () => this.map.fit(), { kind: "quiet", icon: "search" });
    this.mapNote.append(this.fitButton);
  }

  point(event) {
    const node = event.type !== "pointerleave" && event.target instanceof Element ? event.target.closest(".vehicle") : null;
    if (this.map) this.map.mark(node ? node.dataset.device : null);
  }
}

/** One vehicle of the list; mixed: the store holds several kinds of data, so each row says which it is. */
function vehicle(row, mixed) {
  const reasons = row.reasons.slice(0, REASONS_SHOWN).map(say).join(language() === "zh" ? "" : " ");
  const more = row.reasons.length - REASONS_SHOWN;
  return h("li", { class: `vehicle state-${row.state}`, data: { device: row.device } },
    h("div", { class: "state" }, vehicleState(row.state)),
    h("div", { class: "what" },
      h("p", { class: "name" }, h("a", { href: `#/vehicle/${encodeURIComponent(row.device)}`, data: { link: "vehicle" } }, row.name),
        row.name === row.device ? null : h("span", { class: "device" }, row.device),
        row.kind === "roadside" ? h("span", { class: "device" }, t("fleet.node")) : null),
      h("p", { class: "reasons" }, reasons || (row.state === "ok" ? t("fleet.nothing") : ""), more > 0 ? ` (+${more})` : null),
      h("p", { class: "where" }, h("span", { class: "place", title: row.place ? coordinates(row.place) : null }, placeText(row.place)),
        row.place && row.place.at ? [" · ", around("fleet.position", row.place.at.at)] : null,
        row.branch ? [" · ", h("span", {}, row.branch)] : null)),
    h("div", { class: "side" }, heard(row), row.title_state ? titleState(row.title_state) : null, mixed ? clockMark(row.clock) : null,
      row.incident ? h("a", { class: "story", href: `#/incident/${encodeURIComponent(row.incident)}`, data: { link: "story" } },
        row.open_incidents > 1 ? t("fleet.open_incidents", { n: row.open_incidents }) : t("fleet.story"),
        h("span", { class: "visually-hidden" }, `: ${row.name}`)) : null));
}

function heard(row) {
  return row.last_heard ? around("fleet.heard", row.last_heard) : h("span", {}, t("fleet.never_heard"));
}

/** A sentence with an age in it that is kept up to date. */
function around(code, iso) {
  const [before, after] = t(code, { age: "\u0000" }).split("\u0000");
  return h("span", {}, before, time.agoNode(iso), after);
}

function read(key, other) {
  try {
    return localStorage.getItem(key) ?? other;
  } catch {
    return other;
  }
}

function write(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch { /* nothing is remembered then */ }
}
