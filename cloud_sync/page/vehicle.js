// One vehicle: its card, why it needs somebody, where it was last, its incidents, titles and health.

import { h, clear, button, dialog, field, pairs, select } from "./dom.js";
import { icon } from "./icons.js";
import { t, number, bytes } from "./words.js";
import * as api from "./api.js";
import * as time from "./time.js";
import { caseState, cause, coordinates, into, placeText, printButton, problemBox, section, titleState,
  vehicleState } from "./parts.js";
import { bigMark, exportBundle, hash, placeMap, saidList, soon, told, yesNo } from "./bits.js";
import { showLanes } from "./lanes.js";

const HOUR_MS = 3_600_000;
const WINDOWS = { 1: 1, 6: 6, 24: 24, 72: 72, 168: 168 };
const AGAIN_AFTER_MS = 2000;
const LOW_SUPPLY_V = 11.8;
const SOON_DAYS = 30;

/** The view: #/vehicle/<device>?hours= */
export async function show(main, ctx, params) {
  const view = new Vehicle(main, ctx, params);
  await view.load();
  return () => view.end();
}

class Vehicle {
  constructor(main, ctx, params) {
    const hours = Number(params.query.get("hours"));
    Object.assign(this, { main, ctx, device: params.device, path: `vehicles/${encodeURIComponent(params.device)}`,
      hours: WINDOWS[hours] || 24, lanes: null, map: null });
    this.top = h("div", { class: "stack" });
    this.body = h("div", { class: "two-columns" });
    this.timeBox = h("div", {});
    this.export = h("div", {});
    const choose = field(t("record.window"), select(Object.keys(WINDOWS).map((name) => [name,
      t("record.window.hours", { n: Number(name) })]), String(this.hours), (event) => {
      this.hours = Number(event.target.value);
      ctx.setQuery({ hours: this.hours === 24 ? null : this.hours });
      this.timeline();
    }));
    main.append(this.top, this.body, section(t("record.timeline"), h("div", { class: "toolbar" }, choose.node),
      this.timeBox), this.export);
    this.again = soon(() => this.refresh(), AGAIN_AFTER_MS);
    this.stops = [
      ctx.live.on("incident", (row) => row.device === this.device && this.again()),
      ctx.live.on("vehicles", (data) => data.items.some((row) => row.device === this.device) && this.again()),
    ];
  }

  end() {
    for (const stop of this.stops) stop();
    this.again.stop();
    if (this.lanes) this.lanes();
    if (this.map) this.map.destroy();
  }

  async load() {
    this.found = await api.get(this.path, {}, { signal: this.ctx.signal });
    this.draw();
    this.drawExport();
    this.timeline();
  }

  async refresh() {
    try {
      this.found = await api.get(this.path, {}, { signal: this.ctx.signal });
      this.draw();
    } catch { /* what is on the page stays; the line of the shell says that the server is away */ }
  }

  draw() {
    const { vehicle, note, incidents } = this.found;
    const focused = this.top.contains(document.activeElement) && document.activeElement.tagName === "H1";
    clear(this.top).append(
      h("p", { class: "kicker" }, h("a", { href: "#/fleet", class: "back no-print" }, icon("left"),
        h("span", {}, t("shell.nav.fleet"))), vehicleState(vehicle.state),
        h("span", { class: "sub" }, vehicle.branch || t("record.no_branch")), h("code", {}, vehicle.device),
        h("span", { class: "push no-print actions" }, this.ctx.may("write:fleet") ? button(t("record.card.edit"),
          () => this.edit(), { kind: "quiet", icon: "edit" }) : null, printButton())),
      ...[bigMark(vehicle.clock)].filter(Boolean), h("h1", { tabindex: "-1" }, vehicle.name),
      ...[saidList(vehicle.reasons)].filter(Boolean), ...(note ? [h("blockquote", { class: "card-note" }, note)] : []));
    if (focused) this.top.querySelector("h1").focus();
    clear(this.body).append(h("div", { class: "stack" }, this.incidents(incidents), this.place(vehicle)),
      h("div", { class: "stack" }, this.health(), this.record()));
  }

  place(vehicle) {
    const { place } = vehicle;
    const map = h("div", {});
    if (this.map) this.map.destroy();
    this.map = null;
    if (place) {
      placeMap(map, this.ctx, [place], t("record.place")).then((made) => {
        this.map = made;
      });
    }
    return section(t("record.place"), place ? pairs([
      [t("record.place.name"), placeText(place)], [t("record.place.where"), coordinates(place)],
      [t("record.place.at"), place.at ? h("span", {}, time.momentNode(place.at), " · ", time.agoNode(place.at.at)) : null],
    ]) : h("p", { class: "sub" }, t("shell.place.none")), map, place ? h("p", { class: "hint" },
      t("record.place.coarse")) : null);
  }

  health() {
    const { vehicle: row, found } = { vehicle: this.found.vehicle, found: this.found };
    return section(t("record.health"), pairs([
      [t("record.heard"), row.last_heard ? h("span", {}, time.agoNode(row.last_heard), " · ",
        time.atNode(row.last_heard)) : t("record.never")],
      [t("record.due"), dueNode(row)],
      [t("record.power"), t(`shell.power.${row.power_state}`)],
      [t("record.supply"), supplyNode(row)],
      [t("record.outbox"), outboxText(row)],
      [t("record.certificate"), certificateNode(row, found.certificate_until)],
      [t("record.loss_window"), found.loss_window_ms === null ? null : t("record.loss_window.said",
        { span: time.duration(found.loss_window_ms) })],
      [t("record.software"), found.software],
      [t("record.tyres"), found.tyres.length ? h("span", {},
        found.tyres.map((one, index) => [index ? ", " : "", h("code", {}, one)])) : t("record.tyres.none")],
    ]), found.alarms.length ? h("div", { class: "stack tight" }, h("h3", {}, t("record.alarms")), saidList(found.alarms)) : null);
  }

  incidents(rows) {
    if (!this.ctx.may("read:incidents")) return null;
    const line = (row) => h("li", {}, h("div", { class: "row" }, caseState(row.state),
      h("a", { href: `#/incident/${encodeURIComponent(row.id)}`, class: "strong" }, cause(row.cause)),
      h("span", { class: "sub" }, time.momentNode(row.opened))), h("p", {}, told(row)));
    const open = rows.filter((row) => !["refuted", "closed"].includes(row.state));
    const past = rows.filter((row) => ["refuted", "closed"].includes(row.state));
    return section(t("record.incidents"), open.length ? h("ul", { class: "rows" }, open.map(line)) : h("p",
      { class: "sub" }, t("record.incidents.none")),
      past.length ? h("details", {}, h("summary", {}, t("record.incidents.past", { n: past.length })),
        h("ul", { class: "rows" }, past.map(line))) : null);
  }

  record() {
    const found = this.found;
    return section(t("record.record"), pairs([
      [t("record.complete"), h("span", { class: "row" }, yesNo(found.vehicle.complete, t("record.complete.yes"),
        t("record.complete.no")),
        h("a", { href: `#/completeness?device=${encodeURIComponent(this.device)}` }, t("record.by_month")))],
      [t("record.segments"), t("record.segments.said", { segments: number(found.segments),
        events: number(found.events), runs: number(found.runs) })],
      [t("record.run"), found.run ? hash(found.run) : null],
      [t("record.title"), found.tokens.length ? h("div", { class: "stack tight" },
        h("span", {}, titleState(found.vehicle.title_state)), found.tokens.map((token) => (this.ctx.may("read:titles")
        ? h("a", { href: `#/title/${token}`, class: "mono" }, `${token.slice(0, 12)}…`) : h("code", {},
          `${token.slice(0, 12)}…`)))) : t("shell.title.none")],
    ]));
  }

  drawExport() {
    if (!this.ctx.may("read:evidence")) return;
    const result = h("div", {});
    clear(this.export).append(section(t("record.chain"), h("p", {}, t("record.chain.said")),
      h("div", { class: "actions no-print" },
      button(t("record.export"), () => exportBundle(`${this.path}/evidence`, `${this.device}.hfb`,
        t("record.chain.audited"), result), { icon: "download" })), result));
  }

  timeline() {
    if (this.lanes) this.lanes();
    this.lanes = null;
    const to = this.ctx.now();
    return into(this.timeBox, async () => {
      const found = await api.get(`${this.path}/timeline`, { from: new Date(to - this.hours * HOUR_MS).toISOString(),
        to: new Date(to).toISOString() }, { signal: this.ctx.signal });
      const box = h("div", {});
      clear(this.timeBox).append(box);
      this.lanes = showLanes(box, found);
      return box;
    });
  }

  async edit() {
    const changed = await dialog(t("record.card.edit"), (close) => {
      const { vehicle, note } = this.found;
      const id = "branch-names";
      const name = field(t("record.card.name"), { value: vehicle.name, maxlength: 80, autocomplete: "off" },
        { hint: t("record.card.name.hint") });
      const branch = field(t("incident.branch"), { value: vehicle.branch || "", maxlength: 63, list: id, autocomplete: "off" });
      const words = field(t("record.card.note"), h("textarea", { rows: 4, maxlength: 2000, value: note }),
        { hint: t("record.card.note.hint") });
      const problem = h("div", {});
      return h("form", { class: "stack", novalidate: true, onsubmit: async (event) => {
        event.preventDefault();
        clear(problem);
        const body = { name: name.input.value.trim(), note: words.input.value.trim() };
        if (branch.input.value.trim() !== (vehicle.branch || "")) body.branch = branch.input.value.trim();
        try {
          close(await api.send("PATCH", this.path, body));
        } catch (error) {
          problem.append(problemBox(error));
        }
      } }, problem, name.node, branch.node, h("datalist", { id },
        this.ctx.session.branches.map((one) => h("option", { value: one }))), words.node,
      h("div", { class: "actions" }, h("button", { type: "submit", class: "button primary" },
        h("span", {}, t("shell.save"))), button(t("shell.cancel"), () => close())));
    });
    if (!changed) return;
    this.found = changed;
    this.draw();
    this.ctx.announce(t("record.card.saved"));
  }
}

// ---- figures of a device in words, shared with the view of all devices ------------------------------------------

/** When its next heartbeat must have come; "overdue by" where it did not. */
export function dueNode(row) {
  if (!row.next_due) return h("span", { class: "none" }, t("record.due.none"));
  const late = Date.parse(row.next_due) < time.nowMs();
  return late ? h("span", { class: "words-bad" }, icon("overdue"), " ", t("record.due.late",
    { span: time.duration(time.nowMs() - Date.parse(row.next_due)) })) : time.agoNode(row.next_due);
}

export function supplyNode(row) {
  if (row.supply_v === null) return h("span", { class: "none" }, t("record.not_said"));
  const volts = t("record.volts", { n: number(row.supply_v, 1) });
  return row.supply_v < LOW_SUPPLY_V ? h("span", { class: "words-warn" }, icon("battery"), " ",
    t("record.supply.low", { volts })) : volts;
}

export function outboxText(row) {
  if (!row.outbox) return h("span", { class: "none" }, t("record.not_said"));
  if (!row.outbox.segments) return t("record.outbox.empty");
  return t("record.outbox.said", { n: row.outbox.segments, segments: number(row.outbox.segments),
    bytes: bytes(row.outbox.bytes) });
}

export function certificateNode(row, until = null) {
  const days = row.certificate_days;
  if (days === null) return h("span", { class: "none" }, t("record.not_said"));
  const text = days < 0 ? t("record.certificate.over", { n: -days }) : t("record.certificate.days",
    { n: days < 1000 ? days : number(days) });
  const node = days < SOON_DAYS ? h("span", { class: days < 0 ? "words-bad" : "words-warn" }, icon("warning"), " ",
    text) : h("span", {}, text);
  return until ? h("span", {}, node, " · ", time.day(until)) : node;
}

export const THRESHOLDS = { volts: LOW_SUPPLY_V, days: SOON_DAYS };
