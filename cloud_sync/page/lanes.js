// The time line of a vehicle: one row a sensor over a shared axis of time. The first half is layout, pure and
// without a document; the second half draws it. Colour never carries a meaning alone: lines have labels, gaps
// are hatched and explained, marks are numbered and listed.

import { h, svg, clear, select, button, uid } from "./dom.js";
import { t, has, say, number } from "./words.js";
import * as time from "./time.js";

const LABEL_PX = 17;
const PLOT_PX = 40;
const BAND_PX = 20;
const SPACE_PX = 9;
const AXIS_PX = 26;
const MARKS_PX = 20;
const SIDE_PX = 6;
const MAX_TABLE_ROWS = 500;
const SPEAK_AFTER_MS = 350;
const STEPS_MS = [1, 2, 5, 10, 15, 30].map((n) => n * 1000)
  .concat([1, 2, 5, 10, 15, 30].map((n) => n * 60_000), [1, 2, 3, 6, 12].map((n) => n * 3_600_000),
    [1, 2, 7, 14].map((n) => n * 86_400_000));

// ---- layout: numbers in, numbers out -------------------------------------------------------------------------

/** Milliseconds of an ISO time, or null. */
export function ms(iso) {
  const value = Date.parse(iso);
  return Number.isNaN(value) ? null : value;
}

/** At most `count` round moments within [from, to], milliseconds. */
export function ticks(from, to, count) {
  const step = STEPS_MS.find((one) => (to - from) / one <= count)
    || STEPS_MS.at(-1) * Math.ceil((to - from) / count / STEPS_MS.at(-1));
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found;
}

/** Pixel of a moment on an axis of `width` pixels; moments outside stand at its ends. */
export function scale(from, to, left, width) {
  const span = Math.max(1, to - from);
  return (at) => left + (Math.min(to, Math.max(from, at)) - from) / span * width;
}

/** "line" when a lane has numbers, "band" when it has words. */
export function kindOf(lane) {
  return lane.points.some((point) => typeof point.value === "number") ? "line" : "band";
}

/** [smallest, largest] of the numbers of a lane; null without any. */
export function range(points) {
  const values = points.map((point) => point.value).filter((value) => typeof value === "number" && Number.isFinite(value));
  return values.length ? [Math.min(...values), Math.max(...values)] : null;
}

/** Runs of neighbouring numbers [{at, value}]; a point without a value ends a run. */
export function runs(points) {
  const found = [];
  let run = [];
  for (const point of points) {
    if (typeof point.value === "number" && Number.isFinite(point.value)) run.push({ at: ms(point.at), value: point.value });
    else if (run.length) {
      found.push(run);
      run = [];
    }
  }
  if (run.length) found.push(run);
  return found;
}

/** Stretches of one word [{from, to, value, text}]; each lasts until the next point or `end`. */
export function bands(points, end) {
  const found = [];
  points.forEach((point, index) => {
    const from = ms(point.at);
    const to = index + 1 < points.length ? ms(points[index + 1].at) : end;
    const last = found.at(-1);
    if (last && last.value === point.value && last.text === point.text) last.to = to;
    else found.push({ from, to, value: point.value, text: point.text });
  });
  return found.filter((band) => band.value !== null);
}

/** Stretches without data [{from, to}]: from a point without a value to the next one that has one. */
export function holes(points, end) {
  const found = [];
  let from = null;
  for (const point of points) {
    if (point.value === null && from === null) from = ms(point.at);
    if (point.value !== null && from !== null) {
      found.push({ from, to: ms(point.at) });
      from = null;
    }
  }
  if (from !== null && from < end) found.push({ from, to: end });
  return found;
}

/** Stretches that `missing` names by the times in its parameters [{from, to, said}], clipped to the window. Of
 *  segments that did not arrive, an end that is not known is the end of the window; of other losses it stays open. */
export function gaps(missing, from, to) {
  const found = [];
  for (const said of missing) {
    const params = said.params || {};
    const absent = said.code === "record.window_missing" && ("from" in params || "to" in params);
    const start = params.from ? ms(params.from) : absent ? from : null;
    const stop = params.to ? ms(params.to) : absent ? to : null;
    if (start === null || stop === null || stop < from || start > to) continue;
    found.push({ from: Math.max(from, start), to: Math.min(to, stop), said });
  }
  return found;
}

/** The last point at or before `at`, or null: what a lane said at that moment. */
export function valueAt(points, at) {
  let low = 0;
  let high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ms(points[middle].at) <= at) low = middle + 1;
    else high = middle;
  }
  return low ? points[low - 1] : null;
}

/** All different moments of a time line, sorted: the places where the cursor stops. */
export function stops(timeline) {
  const found = new Set([ms(timeline.from_at), ms(timeline.to_at)]);
  for (const list of [...timeline.lanes.map((lane) => lane.points), timeline.marks]) {
    for (const point of list) found.add(ms(point.at));
  }
  const [from, to] = [ms(timeline.from_at), ms(timeline.to_at)];
  return [...found].filter((at) => at !== null && at >= from && at <= to).sort((a, b) => a - b);
}

/** Place of every row: {rows: [{lane, kind, top, plot, height}], marks, axis, height, left, width}. */
export function layout(timeline, width) {
  const rows = [];
  let top = timeline.marks.length ? MARKS_PX : 4;
  for (const lane of timeline.lanes) {
    const kind = kindOf(lane);
    const height = kind === "line" ? PLOT_PX : BAND_PX;
    rows.push({ lane, kind, top, plot: top + LABEL_PX, height });
    top += LABEL_PX + height + SPACE_PX;
  }
  return { rows, marks: MARKS_PX / 2, axis: top, height: top + AXIS_PX, left: SIDE_PX, width: Math.max(80, width - 2 * SIDE_PX) };
}

// ---- words ---------------------------------------------------------------------------------------------------

function unitOf(lane) {
  if (!lane.unit) return "";
  return has(`incident.unit.${lane.unit}`) ? t(`incident.unit.${lane.unit}`) : lane.unit;
}

function digitsOf(lane) {
  const bounds = range(lane.points);
  if (!bounds || lane.points.every((point) => typeof point.value !== "number" || Number.isInteger(point.value))) return 0;
  const size = Math.max(Math.abs(bounds[0]), Math.abs(bounds[1]));
  return size < 10 ? 2 : size < 100 ? 1 : 0;
}

/** A value in words: number with unit, or the word itself. */
export function valueText(lane, point) {
  if (!point) return t("incident.lane.nothing");
  if (point.value === null) return point.text ? t("incident.lane.lost", { why: textOf(point) }) : t("incident.lane.nothing");
  if (typeof point.value === "number") {
    const unit = unitOf(lane);
    return `${number(point.value, digitsOf(lane))}${unit ? ` ${unit}` : ""}${point.text ? ` (${textOf(point)})` : ""}`;
  }
  const word = has(`incident.value.${point.value}`) ? t(`incident.value.${point.value}`) : String(point.value);
  const more = textOf(point);
  return more && more !== word ? `${word} (${more})` : word;
}

/** The text of a point: a code of the words, a word of the device, or figures. */
function textOf(point) {
  const text = point.text || "";
  for (const code of [`shell.${text}`, `incident.value.${text}`]) if (has(code)) return t(code);
  const most = /^max ([0-9.]+)$/.exec(text);
  if (most) return t("incident.lane.most", { value: number(Number(most[1]), 2) });
  return text.replace(/\b(FL|FR|RL|RR) (?=\d)/g, (_, wheel) => `${t(`incident.wheel.${wheel}`)} `);
}

function laneName(lane) {
  return has(`incident.lane.${lane.lane}`) ? t(`incident.lane.${lane.lane}`) : lane.lane;
}

function markText(mark) {
  const word = mark.value !== null && has(`incident.mark.${mark.value}`) ? t(`incident.mark.${mark.value}`) : mark.value;
  return [word, textOf(mark)].filter((part) => part !== null && part !== "").join(": ");
}

function clock(at, withDay = false) {
  return time.at(new Date(at).toISOString(), withDay ? "always" : "never");
}

// ---- drawing -------------------------------------------------------------------------------------------------

/** Shows `timeline` in `node`. options: {opened: Moment of the incident, label}. Gives a function that ends it. */
export function showLanes(node, timeline, options = {}) {
  clear(node);
  if (!timeline.lanes.length && !timeline.marks.length) {
    node.append(h("p", { class: "sub" }, t("incident.lanes.none")));
    explain(node, timeline);
    return () => {};
  }
  const state = new View(node, timeline, options);
  return () => state.end();
}

class View {
  constructor(node, timeline, options) {
    this.timeline = timeline;
    this.options = options;
    this.stops = stops(timeline);
    this.from = ms(timeline.from_at);
    this.to = ms(timeline.to_at);
    const opened = options.opened ? ms(options.opened.at) : null;
    this.at = opened !== null && opened >= this.from && opened <= this.to ? opened : this.stops.at(-1);
    this.pattern = uid("hatch");
    this.drawing = h("div", { class: "lanes-drawing" });
    this.readout = h("dl", { class: "lanes-readout" });
    this.spoken = h("p", { class: "visually-hidden", role: "status", "aria-live": "polite" });
    this.slider = h("div", {
      class: "lanes-slider", role: "slider", tabindex: "0", "aria-orientation": "horizontal",
      "aria-label": t("incident.lanes.cursor"), "aria-valuemin": "0", "aria-valuemax": String(this.stops.length - 1),
      onkeydown: (event) => this.key(event), onpointerdown: (event) => this.point(event),
      onpointermove: (event) => {
        if (event.pointerType === "mouse" || event.buttons) this.point(event);
      },
    }, this.drawing);
    this.tableBox = h("div", { hidden: true });
    this.toggle = button(t("incident.lanes.table"), () => this.flip(), { kind: "quiet", "aria-pressed": "false",
      class: "no-print" });
    node.append(h("div", { class: "lanes" },
      h("div", { class: "lanes-bar" }, h("p", { class: "hint" }, t("incident.lanes.hint", { zone: time.zone() })), this.toggle),
      this.figure = h("div", { class: "lanes-figure" }, this.slider, this.readout), this.tableBox, this.spoken));
    explain(node, timeline);
    this.width = 0;
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.drawing);
    this.draw();
  }

  end() {
    this.observer.disconnect();
    clearTimeout(this.timer);
  }

  draw() {
    const width = Math.floor(this.drawing.clientWidth) || 640;
    if (width === this.width) return;
    this.width = width;
    const place = layout(this.timeline, width);
    this.place = place;
    this.x = scale(this.from, this.to, place.left, place.width);
    const long = this.to - this.from > 86_400_000;
    this.cursor = svg("g", { class: "lanes-cursor" }, svg("line", { x1: 0, x2: 0, y1: 0, y2: place.axis }),
      svg("path", { d: `M-5 ${place.axis + 7}L0 ${place.axis}L5 ${place.axis + 7}Z` }));
    const picture = svg("svg", { viewBox: `0 0 ${width} ${place.height}`, width, height: place.height,
      class: "lanes-svg", "aria-hidden": "true" },
      svg("defs", {}, svg("pattern", { id: this.pattern, width: 6, height: 6, patternUnits: "userSpaceOnUse",
        patternTransform: "rotate(45)" },
        svg("line", { x1: 0, y1: 0, x2: 0, y2: 6, class: "lanes-hatch-line" }))),
      this.axis(place, long), place.rows.map((row) => this.row(row)), this.gapRects(place), this.opening(place),
        this.markSigns(place), this.cursor);
    clear(this.drawing).append(picture);
    this.move(this.at, false);
  }

  axis(place, long) {
    const count = Math.max(2, Math.floor(place.width / (long ? 150 : 90)));
    return svg("g", { class: "lanes-axis" }, svg("line", { class: "lanes-base", x1: place.left,
      x2: place.left + place.width, y1: place.axis, y2: place.axis }),
      ticks(this.from, this.to, count).map((at) => {
        const x = this.x(at);
        const anchor = x < 40 ? "start" : x > this.width - 40 ? "end" : "middle";
        return [svg("line", { class: "lanes-grid", x1: x, x2: x, y1: 0, y2: place.axis }),
          svg("text", { x: anchor === "start" ? Math.max(x, 1) : anchor === "end" ? Math.min(x, this.width - 1) : x,
            y: place.axis + 18, "text-anchor": anchor },
            long ? clock(at, true).replace(/:\d\d$/, "") : clock(at).replace(/:00$/, ""))];
      }));
  }

  row({ lane, kind, top, plot, height }) {
    const unit = unitOf(lane);
    const bounds = range(lane.points);
    const digits = digitsOf(lane);
    const note = bounds ? t("incident.lanes.range", { min: number(bounds[0], digits), max: number(bounds[1], digits),
      unit }) : "";
    const name = laneName(lane);
    return svg("g", { class: `lanes-row lanes-${lane.lane}` },
      svg("text", { x: SIDE_PX, y: top + 13, class: "lanes-name" }, name),
      note ? svg("text", { x: this.width - SIDE_PX, y: top + 13, "text-anchor": "end", class: "lanes-range" }, note) : null,
      svg("rect", { x: this.place.left, y: plot, width: this.place.width, height, class: "lanes-ground" }),
      holes(lane.points, this.to).map((hole) => this.hatched(hole, plot, height)),
      kind === "line" ? this.lines(lane, bounds, plot, height) : this.words(lane, plot, height));
  }

  lines(lane, [low, high], plot, height) {
    const flat = high === low;
    const y = (value) => (flat ? plot + height / 2 : plot + height - 4 - (value - low) / (high - low) * (height - 8));
    const found = runs(lane.points);
    const dots = lane.points.length <= this.place.width / 8;
    return found.map((run) => [
      run.length > 1 ? svg("polyline", { class: "lanes-line",
        points: run.map((p) => `${this.x(p.at).toFixed(1)},${y(p.value).toFixed(1)}`).join(" ") }) : null,
      dots || run.length === 1 ? run.map((p) => svg("circle", { class: "lanes-dot", cx: this.x(p.at).toFixed(1),
        cy: y(p.value).toFixed(1), r: 2 })) : null,
    ]);
  }

  words(lane, plot, height) {
    return bands(lane.points, this.to).map((band, index) => {
      const x = this.x(band.from);
      const width = Math.max(2, this.x(band.to) - x);
      const text = valueText(lane, { value: band.value, text: "" });
      const room = text.length * (/[\u2e80-\uffff]/.test(text) ? 12.5 : 6.8) + 8;
      return [svg("rect", { class: `lanes-band lanes-band-${index % 2}`, x, y: plot, width, height, rx: 2 }),
        width > room ? svg("text", { class: "lanes-word", x: x + 5, y: plot + height / 2 + 4 }, text) : null];
    });
  }

  hatched({ from, to }, plot, height) {
    const x = this.x(from);
    return svg("rect", { class: "lanes-gap", x, y: plot, width: Math.max(3, this.x(to) - x), height,
      fill: `url(#${this.pattern})` });
  }

  gapRects(place) {
    const found = gaps(this.timeline.missing, this.from, this.to);
    return svg("g", { class: "lanes-missing" }, place.rows.map((row) => found.map((gap) => this.hatched(gap, row.plot,
      row.height))));
  }

  opening(place) {
    const moment = this.options.opened;
    const at = moment ? ms(moment.at) : null;
    if (at === null || at < this.from || at > this.to) return null;
    const unc = moment.unc_ms || 0;
    const left = this.x(at - unc);
    const x = this.x(at);
    const end = x > this.width - 120;
    return svg("g", { class: "lanes-opening" },
      svg("rect", { x: Math.min(left, x - 1), y: 0, width: Math.max(2, this.x(at + unc) - left), height: place.axis }),
      svg("line", { x1: x, x2: x, y1: 0, y2: place.axis }),
      this.timeline.marks.length ? null : svg("text", { x: end ? x - 4 : x + 4, y: 11,
        "text-anchor": end ? "end" : "start" }, t("incident.lanes.opened")));
  }

  markSigns(place) {
    let last = -Infinity;
    return svg("g", { class: "lanes-marks" }, this.timeline.marks.map((mark, index) => {
      const x = Math.min(this.width - 9, Math.max(9, this.x(ms(mark.at))));
      const shown = x - last >= 15;
      if (shown) last = x;
      return [svg("line", { x1: this.x(ms(mark.at)), x2: this.x(ms(mark.at)), y1: place.marks, y2: place.axis }),
        shown ? svg("circle", { cx: x, cy: place.marks, r: 8 }) : null,
        shown ? svg("text", { x, y: place.marks + 4, "text-anchor": "middle" }, String(index + 1)) : null];
    }));
  }

  // -- the cursor

  key(event) {
    const here = this.stops.findIndex((at) => at >= this.at);
    const far = Math.max(1, Math.round(this.stops.length / 10));
    const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: far, PageDown: -far,
      Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const next = Math.min(this.stops.length - 1, Math.max(0, (here < 0 ? this.stops.length - 1 : here) + moves[event.key]));
    this.move(this.stops[next], true);
  }

  point(event) {
    const box = this.drawing.getBoundingClientRect();
    const share = (event.clientX - box.left - this.place.left) / this.place.width;
    const wanted = this.from + Math.min(1, Math.max(0, share)) * (this.to - this.from);
    let best = this.stops[0];
    for (const at of this.stops) if (Math.abs(at - wanted) < Math.abs(best - wanted)) best = at;
    this.move(best, false);
  }

  move(at, speak) {
    this.at = at;
    this.cursor.setAttribute("transform", `translate(${this.x(at)} 0)`);
    const index = Math.max(0, this.stops.indexOf(at));
    const when = clock(at, this.to - this.from > 86_400_000);
    this.slider.setAttribute("aria-valuenow", String(index));
    this.slider.setAttribute("aria-valuetext", when);
    const values = this.timeline.lanes.map((lane) => [laneName(lane), valueText(lane, valueAt(lane.points, at))]);
    const marks = this.timeline.marks.filter((mark) => ms(mark.at) === at).map(markText);
    clear(this.readout).append(h("div", { class: "lanes-when" }, h("dt", {}, t("incident.lanes.at")), h("dd", {}, when)),
      ...values.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text))),
      ...marks.map((text) => h("div", {}, h("dt", {}, t("incident.lanes.mark")), h("dd", {}, text))));
    clearTimeout(this.timer);
    if (speak) {
      this.timer = setTimeout(() => {
        this.spoken.textContent = [when, ...marks, ...values.map(([name, text]) => `${name}: ${text}`)].join("; ");
      }, SPEAK_AFTER_MS);
    }
  }

  // -- as a table

  flip() {
    const on = this.tableBox.hidden;
    this.tableBox.hidden = !on;
    this.figure.hidden = on;
    this.toggle.setAttribute("aria-pressed", String(on));
    this.toggle.querySelector("span").textContent = t(on ? "incident.lanes.drawing" : "incident.lanes.table");
    if (on) this.fillTable("");
    else this.draw();
  }

  fillTable(wanted) {
    const rows = [];
    for (const lane of this.timeline.lanes) {
      if (wanted && lane.lane !== wanted) continue;
      for (const point of lane.points) rows.push([ms(point.at), laneName(lane), valueText(lane, point)]);
    }
    if (!wanted) for (const mark of this.timeline.marks) rows.push([ms(mark.at), t("incident.lanes.mark"), markText(mark)]);
    rows.sort((a, b) => a[0] - b[0]);
    const id = uid("lane");
    const choose = select([["", t("incident.lanes.all")],
      ...this.timeline.lanes.map((lane) => [lane.lane, laneName(lane)])], wanted,
      (event) => this.fillTable(event.target.value), { id });
    clear(this.tableBox).append(
      h("div", { class: "field no-print" }, h("label", { for: id }, t("incident.lanes.choose")), choose),
      rows.length > MAX_TABLE_ROWS ? h("p", { class: "hint" }, t("incident.lanes.cut",
        { n: MAX_TABLE_ROWS, all: rows.length })) : null,
      h("div", { class: "lanes-scroll", tabindex: "0", role: "region", "aria-label": t("incident.lanes.caption") },
        h("table", { class: "data compact" }, h("caption", { class: "visually-hidden" }, t("incident.lanes.caption")),
          h("thead", {}, h("tr", {}, ["at", "sensor", "value"].map((name) => h("th", { scope: "col" },
            t(`incident.lanes.${name}`))))),
          h("tbody", {}, rows.slice(0, MAX_TABLE_ROWS).map(([at, name, text]) => h("tr", {}, h("th", { scope: "row" },
            clock(at, true)), h("td", {}, name), h("td", {}, text)))))));
    if (wanted) choose.focus();
  }
}

/** What the drawing cannot say: its marks in words, and what of the window is missing. */
function explain(node, timeline) {
  if (timeline.marks.length) {
    node.append(h("ol", { class: "lanes-legend", "aria-label": t("incident.lanes.marks") },
      timeline.marks.map((mark) => h("li", {}, time.atNode(mark.at, "auto"), " ", markText(mark)))));
  }
  if (timeline.missing.length) {
    node.append(h("div", { class: "lanes-note" }, h("span", { class: "lanes-swatch", "aria-hidden": "true" }),
      h("div", {}, h("p", { class: "strong" }, t("incident.lanes.missing")), h("ul", { class: "sentences" },
        timeline.missing.map((said) => h("li", {}, say(readable(said))))))));
  }
}

const WITH_OPEN_ENDS = {
  "record.window_missing": (end) => `record.window_missing.${end}`,
  "record.window_dropped": (end) => `record.window_dropped.${end}`,
};
const PARAM_WORDS = { cause: "shell.cause", state: "shell.title", clock: "shell.clock", source: "shell.time.source" };

/** A sentence with its parameters as people read them: times in the chosen zone, names of causes and states in
 *  words. One about a window whose beginning or end is not known is said without it. */
export function readable(said) {
  const params = { ...(said.params || {}) };
  for (const [name, value] of Object.entries(params)) {
    if (name === "n" && value >= 1000) params[name] = number(value);
    if (typeof value !== "string") continue;
    if (/^\d{4}-\d\d-\d\dT\d\d:/.test(value)) params[name] = time.at(value, "always");
    else if (/^\d{4}-\d\d$/.test(value)) params[name] = time.month(value);
    else if (name in PARAM_WORDS && has(`${PARAM_WORDS[name]}.${value}`)) params[name] = t(`${PARAM_WORDS[name]}.${value}`);
  }
  let { code } = said;
  if (code in WITH_OPEN_ENDS && (!params.from || !params.to)) {
    code = WITH_OPEN_ENDS[code](params.from ? "since" : params.to ? "until" : "some");
  }
  return { code, params };
}
