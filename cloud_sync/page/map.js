// The map, without internet: Leaflet for panning and zooming, one canvas of our own for everything that is drawn:
// a grid of degrees, the places of the operator's own list with their radii, tracks, vehicles in clusters. The
// region that a vehicle must not leave is known to its device alone and is not drawn. A licensed tile source and an
// outline set may stand behind it. The canvas is no list: the list beside it is the accessible equivalent.

import { h, clear } from "./dom.js";
import { outline } from "./icons.js";
import { t, language, length, number } from "./words.js";
import * as time from "./time.js";
import { cluster, project, gridStep, degrees } from "./cluster.js";
import { toDisplay, fromDisplay } from "./datum.js";

const STATES = ["incident", "overdue", "attention", "ok"];
const PIN_PX = { incident: 26, overdue: 22, attention: 22, ok: 16 };
const NEUTRAL_MAX_ZOOM = 14;
const TILES_MAX_ZOOM = 17;
const PLACES_FROM_ZOOM = 5;
const PLACES_PAUSE_MS = 250;
const LISTED_AT_ONE_PLACE = 30;
const TILE_PX = 256;
const TRACK_HIT_PX = 10;
const COARSE_M = 800; // half the diagonal of a cell of 0.01 degrees at the equator

let loadingLeaflet = null;

/** Loads Leaflet once: a script and a style sheet of our own server. */
export function leaflet() {
  if (window.L) return Promise.resolve(window.L);
  if (!loadingLeaflet) {
    loadingLeaflet = new Promise((resolve, reject) => {
      const script = h("script", { src: "/page/leaflet/leaflet.js" });
      script.addEventListener("load", () => resolve(window.L));
      script.addEventListener("error", () => {
        script.remove();
        loadingLeaflet = null;
        reject(new Error("leaflet.js"));
      });
      document.head.append(h("link", { rel: "stylesheet", href: "/page/leaflet/leaflet.css" }), script);
    });
  }
  return loadingLeaflet;
}

/** Opens a map in `node`. options: {label, height, onVehicle(device), onPlaces(count)}. Gives a MapView. */
export async function openMap(node, ctx, options = {}) {
  const L = await leaflet();
  return new MapView(L, node, ctx, options);
}

/** A map with one track: [{lat, lon, at: Moment}], oldest first; for the views of a vehicle and an incident. */
export async function trackMap(node, ctx, track, options = {}) {
  const view = await openMap(node, ctx, options);
  view.setTrack(track);
  view.fit();
  return view;
}

export class MapView {
  constructor(L, node, ctx, options) {
    this.L = L;
    this.ctx = ctx;
    this.node = node;
    this.options = options;
    this.settings = ctx.session.map;
    this.datum = this.settings.tiles ? this.settings.datum : "wgs84";
    this.points = [];
    this.index = new Map();
    this.track = [];
    this.places = [];
    this.lines = [];
    this.marked = null;
    this.drawn = [];
    this.clustered = { zoom: null, found: [] };
    this.colours = new Map();
    node.classList.add("map");
    node.setAttribute("role", "region");
    node.setAttribute("aria-label", options.label || t("fleet.map.label"));
    this.map = L.map(node, { attributionControl: false, zoomControl: false, zoomAnimation: false, fadeAnimation: false,
      inertia: !matchMedia("(prefers-reduced-motion: reduce)").matches, worldCopyJump: true, minZoom: 1,
      maxZoom: this.settings.tiles ? TILES_MAX_ZOOM : NEUTRAL_MAX_ZOOM, zoomSnap: this.settings.tiles ? 1 : 0.25, zoomDelta: 1 });
    L.control.zoom({ zoomInTitle: t("fleet.map.zoom_in"), zoomOutTitle: t("fleet.map.zoom_out") }).addTo(this.map);
    L.control.scale({ imperial: false, maxWidth: 120 }).addTo(this.map);
    if (this.settings.tiles) L.tileLayer(this.settings.tiles, { maxZoom: TILES_MAX_ZOOM }).addTo(this.map);
    this.canvas = h("canvas", { class: "pins", "aria-hidden": "true" });
    this.map.getPane("overlayPane").append(this.canvas);
    this.probe = h("span", { hidden: true, style: { transition: "none" } });
    node.append(this.probe);
    this.map.setView([30, 20], 2);
    this.listen();
    if (this.settings.outline && language() !== "zh") this.loadOutline();
  }

  listen() {
    const { map } = this;
    map.on("move zoomend resize viewreset", () => this.draw());
    map.on("moveend", () => this.wantPlaces());
    map.on("click", (event) => this.click(event.containerPoint));
    map.on("mousemove", (event) => this.hover(event.containerPoint));
    map.on("mouseout", () => this.tip(null));
    this.onTheme = () => {
      this.colours.clear();
      this.draw();
    };
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.scheme.addEventListener("change", this.onTheme);
    window.addEventListener("themechange", this.onTheme);
    this.watcher = new ResizeObserver(() => map.invalidateSize({ animate: false }));
    this.watcher.observe(this.node);
  }

  /** Takes everything down. */
  destroy() {
    this.gone = true;
    clearTimeout(this.placesTimer);
    this.watcher.disconnect();
    this.scheme.removeEventListener("change", this.onTheme);
    window.removeEventListener("themechange", this.onTheme);
    this.map.remove();
  }

  // ---- what is on it -----------------------------------------------------------------------------------------

  /** All vehicles: FleetMap of the API. shown(state name) says which states are drawn. */
  setVehicles(fleet, shown = () => true) {
    this.states = fleet.states;
    this.shown = shown;
    this.all = new Map(fleet.items.map((item) => [item[0], item]));
    this.regroup();
  }

  /** A vehicle changed: [device, lat, lon, state name, name]; drawn with the next regroup(). */
  change(device, lat, lon, state, name) {
    if (this.all) this.all.set(device, [device, lat, lon, this.states.indexOf(state), name]);
  }

  /** The state in which the map knows a vehicle, or null. */
  stateOf(device) {
    const item = this.all && this.all.get(device);
    return item ? this.states[item[3]] : null;
  }

  /** Which states are drawn. */
  show(shown) {
    this.shown = shown;
    this.regroup();
  }

  regroup() {
    if (!this.all) return;
    this.points = [];
    for (const [device, lat, lon, state, name] of this.all.values()) {
      const called = this.states[state];
      if (!this.shown(called)) continue;
      const there = toDisplay(this.datum, lat, lon);
      const [x, y] = project(...there);
      this.points.push({ x, y, state: Math.max(0, STATES.indexOf(called)), device, name, lat, lon });
    }
    this.clustered.zoom = null;
    this.draw();
  }

  /** The coarse track, oldest first. */
  setTrack(track) {
    this.track = track.map((place) => ({ ...place, there: project(...toDisplay(this.datum, place.lat, place.lon)) }));
    this.draw();
  }

  /** Points to one vehicle (the list's row under the pointer), or to none. */
  mark(device) {
    if (this.marked === device) return;
    this.marked = device;
    this.draw();
  }

  /** Brings everything into view; the middle 98 % of many vehicles, so that one stray fix does not shrink the rest. */
  fit() {
    const spots = [...this.points.map((point) => [point.x, point.y]), ...this.track.map((place) => place.there)];
    if (!spots.length) return;
    const cut = spots.length > 200 ? Math.floor(spots.length / 100) : 0;
    const xs = spots.map(([x]) => x).sort((a, b) => a - b).slice(cut, spots.length - cut);
    const ys = spots.map(([, y]) => y).sort((a, b) => a - b).slice(cut, spots.length - cut);
    this.map.fitBounds([this.unproject(xs[0], ys[0]), this.unproject(xs.at(-1), ys.at(-1))],
      { padding: [40, 40], maxZoom: 12, animate: false });
  }

  unproject(x, y) {
    const zoom = 0;
    return this.map.options.crs.pointToLatLng(this.L.point(x * TILE_PX, y * TILE_PX), zoom);
  }

  async loadOutline() {
    try {
      const found = await this.ctx.api.get("outline", {}, { signal: this.ctx.signal });
      this.lines = lineStrings(found).map((line) => line.map(([lon, lat]) => project(...toDisplay(this.datum, lat, lon))));
      this.draw();
    } catch { /* optional: the grid is enough */ }
  }

  wantPlaces() {
    clearTimeout(this.placesTimer);
    this.placesTimer = setTimeout(() => this.loadPlaces(), PLACES_PAUSE_MS);
  }

  async loadPlaces() {
    if (this.gone) return;
    if (this.map.getZoom() < PLACES_FROM_ZOOM) {
      this.takePlaces([]);
      return;
    }
    const bounds = this.map.getBounds();
    const [south, west] = fromDisplay(this.datum, bounds.getSouth(), bounds.getWest());
    const [north, east] = fromDisplay(this.datum, bounds.getNorth(), bounds.getEast());
    const cut = (value, most) => Math.max(-most, Math.min(most, value)).toFixed(4);
    try {
      const found = await this.ctx.api.get("places", { west: cut(west, 180), south: cut(south, 90), east: cut(east, 180),
        north: cut(north, 90) }, { signal: this.ctx.signal });
      this.takePlaces(found.items.map((place) => ({ ...place, there: project(...toDisplay(this.datum, place.lat, place.lon)) }))
        .sort((a, b) => b.radius_m - a.radius_m));
    } catch { /* names are a help, not the matter: the map stands without them */ }
  }

  takePlaces(places) {
    const changed = Boolean(places.length) !== Boolean(this.places.length);
    this.places = places;
    this.draw();
    if (changed && this.options.onPlaces) this.options.onPlaces(places.length);
  }

  // ---- drawing -----------------------------------------------------------------------------------------------

  draw() {
    if (this.waiting || this.gone) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      if (!this.gone) this.paint();
    });
  }

  colour(name) {
    if (!this.colours.has(name)) {
      this.probe.style.color = `var(--${name})`;
      this.probe.hidden = false;
      this.colours.set(name, getComputedStyle(this.probe).color);
      this.probe.hidden = true;
    }
    return this.colours.get(name);
  }

  paint() {
    const size = this.map.getSize();
    const ratio = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(size.x * ratio) || this.canvas.height !== Math.round(size.y * ratio)) {
      this.canvas.width = Math.round(size.x * ratio);
      this.canvas.height = Math.round(size.y * ratio);
      this.canvas.style.width = `${size.x}px`;
      this.canvas.style.height = `${size.y}px`;
    }
    this.L.DomUtil.setPosition(this.canvas, this.map.containerPointToLayerPoint([0, 0]));
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, size.x, size.y);
    const scale = TILE_PX * 2 ** this.map.getZoom();
    const origin = this.map.getPixelBounds().min;
    const at = ([x, y]) => [x * scale - origin.x, y * scale - origin.y];
    this.frame = { pen, size, scale, origin, at };
    if (!this.settings.tiles) this.paintGrid();
    this.paintLines();
    this.paintPlaces();
    this.paintTrack();
    this.paintPins();
    this.paintNames();
  }

  font(pen, size, weight = 400) {
    pen.font = `${weight} ${size}px system-ui, "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif`;
  }

  paintGrid() {
    const { pen, size } = this.frame;
    const step = gridStep(this.map.getZoom());
    const bounds = this.map.getBounds();
    pen.strokeStyle = this.colour("map-line");
    pen.fillStyle = this.colour("map-text");
    pen.lineWidth = 1;
    this.font(pen, 11);
    pen.beginPath();
    const texts = [];
    for (let n = Math.ceil(bounds.getWest() / step); n * step <= bounds.getEast(); n += 1) {
      const x = Math.round(this.map.latLngToContainerPoint([0, n * step]).x) + 0.5;
      pen.moveTo(x, 0);
      pen.lineTo(x, size.y);
      const lon = ((n * step + 540) % 360) - 180;
      if (x > 60 && x < size.x - 60) texts.push([degrees(lon, "E", "W", step), x + 4, 13]);
    }
    for (let n = Math.ceil(Math.max(-85, bounds.getSouth()) / step); n * step <= Math.min(85, bounds.getNorth()); n += 1) {
      const y = Math.round(this.map.latLngToContainerPoint([n * step, 0]).y) + 0.5;
      pen.moveTo(0, y);
      pen.lineTo(size.x, y);
      if (y > 24) texts.push([degrees(n * step, "N", "S", step), size.x - 58, y - 4]);
    }
    pen.stroke();
    for (const [text, x, y] of texts) pen.fillText(text, x, y);
  }

  paintLines() {
    const { pen, at, size } = this.frame;
    if (!this.lines.length) return;
    pen.strokeStyle = this.colour("line-strong");
    pen.lineWidth = 1;
    pen.beginPath();
    for (const line of this.lines) {
      const spots = line.map(at);
      if (!spots.some(([x, y]) => x > -500 && y > -500 && x < size.x + 500 && y < size.y + 500)) continue;
      spots.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    }
    pen.stroke();
  }

  /** Pixels of a length at a latitude. */
  pixels(metres, lat) {
    return (metres / (40_075_016 * Math.cos((lat * Math.PI) / 180))) * this.frame.scale;
  }

  paintPlaces() {
    const { pen, at } = this.frame;
    pen.strokeStyle = this.colour("accent");
    pen.lineWidth = 1.2;
    pen.setLineDash([5, 4]);
    for (const place of this.places) {
      const radius = this.pixels(place.radius_m, place.lat);
      if (radius < 7) continue;
      const [x, y] = at(place.there);
      pen.beginPath();
      pen.arc(x, y, radius, 0, 2 * Math.PI);
      pen.stroke();
    }
    pen.setLineDash([]);
  }

  paintNames() {
    const { pen, at, size } = this.frame;
    const taken = this.drawn.map((one) => [one.x - one.w / 2, one.y - one.h / 2, one.x + one.w / 2, one.y + one.h / 2]);
    this.font(pen, 12);
    pen.lineJoin = "round";
    for (const place of this.places) {
      const [x, y] = at(place.there);
      if (x < -20 || y < 0 || x > size.x || y > size.y) continue;
      const width = pen.measureText(place.name).width;
      const box = [x + 4, y - 9, x + 10 + width, y + 9];
      if (taken.some((other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1])) continue;
      taken.push(box);
      pen.fillStyle = this.colour("accent");
      pen.beginPath();
      pen.arc(x, y, 2.5, 0, 2 * Math.PI);
      pen.fill();
      pen.strokeStyle = this.colour("map");
      pen.lineWidth = 3;
      pen.strokeText(place.name, x + 7, y + 4);
      pen.fillStyle = this.colour("text");
      pen.fillText(place.name, x + 7, y + 4);
    }
  }

  paintTrack() {
    const { pen, at } = this.frame;
    if (!this.track.length) return;
    const spots = this.track.map((place) => at(place.there));
    this.paintDoubt(spots);
    pen.strokeStyle = this.colour("accent");
    pen.lineWidth = 2.5;
    pen.lineJoin = "round";
    pen.beginPath();
    spots.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.stroke();
    pen.fillStyle = this.colour("panel");
    for (const [x, y] of spots) {
      pen.beginPath();
      pen.arc(x, y, 3, 0, 2 * Math.PI);
      pen.fill();
      pen.stroke();
    }
    const [x, y] = spots.at(-1);
    pen.fillStyle = this.colour("accent");
    pen.beginPath();
    pen.arc(x, y, 7, 0, 2 * Math.PI);
    pen.fill();
    pen.strokeStyle = this.colour("panel");
    pen.stroke();
  }

  /** How well each point of the track is known: one shade for all of them, however they overlap. */
  paintDoubt(spots) {
    const { pen } = this.frame;
    pen.save();
    pen.globalAlpha = 0.16;
    pen.fillStyle = this.colour("accent");
    pen.beginPath();
    this.track.forEach((place, index) => {
      const radius = this.pixels(uncertainty(place), place.lat);
      if (radius < 4) return;
      const [x, y] = spots[index];
      pen.moveTo(x + radius, y);
      pen.arc(x, y, radius, 0, 2 * Math.PI);
    });
    pen.fill();
    pen.restore();
  }

  paintPins() {
    const { pen, at, size } = this.frame;
    const zoom = this.map.getZoom();
    if (this.clustered.zoom !== zoom) this.clustered = { zoom, found: cluster(this.points, zoom) };
    this.drawn = [];
    for (const group of this.clustered.found) {
      const [x, y] = at([group.x, group.y]);
      if (x < -60 || y < -30 || x > size.x + 60 || y > size.y + 30) continue;
      const drawn = group.count === 1 ? this.paintPin(pen, group, x, y) : this.paintPill(pen, group, x, y);
      this.drawn.push({ ...drawn, group, x, y });
    }
    this.paintMarked(pen);
  }

  paintSign(pen, state, x, y, px, fill, line) {
    pen.save();
    pen.translate(x - px / 2, y - px / 2);
    pen.scale(px / 24, px / 24);
    const path = sign(state);
    pen.lineJoin = "round";
    pen.lineCap = "round";
    if (fill) {
      pen.strokeStyle = line;
      pen.lineWidth = 5;
      pen.stroke(path);
      pen.fillStyle = fill;
      pen.fill(path);
    }
    pen.strokeStyle = line;
    pen.lineWidth = 2.2;
    pen.stroke(path);
    pen.restore();
  }

  paintPin(pen, group, x, y) {
    const state = STATES[group.worst];
    const px = PIN_PX[state];
    this.paintSign(pen, state, x, y, px, this.colour(`pin-${state}`), this.colour("panel"));
    return { w: Math.max(24, px), h: Math.max(24, px) };
  }

  paintPill(pen, group, x, y) {
    const state = STATES[group.worst];
    const text = number(group.count);
    this.font(pen, 12.5, 700);
    const width = pen.measureText(text).width + 31;
    pen.beginPath();
    pen.roundRect(x - width / 2, y - 11.5, width, 23, 11.5);
    pen.fillStyle = this.colour(`pin-${state}`);
    pen.fill();
    pen.lineWidth = 1.5;
    pen.strokeStyle = this.colour("panel");
    pen.stroke();
    this.paintSign(pen, state, x - width / 2 + 14, y, 14, null, this.colour("panel"));
    pen.fillStyle = this.colour("panel");
    pen.fillText(text, x - width / 2 + 24, y + 4.5);
    return { w: width, h: 24 };
  }

  paintMarked(pen) {
    if (!this.marked) return;
    const found = this.drawn.find((one) => one.group.members.some((index) => this.points[index].device === this.marked));
    if (!found) return;
    pen.strokeStyle = this.colour("text");
    pen.lineWidth = 2.5;
    pen.beginPath();
    pen.roundRect(found.x - found.w / 2 - 5, found.y - found.h / 2 - 5, found.w + 10, found.h + 10, 16);
    pen.stroke();
  }

  // ---- pointing ----------------------------------------------------------------------------------------------

  hit(point) {
    return this.drawn.findLast((one) => Math.abs(point.x - one.x) <= one.w / 2 + 2 && Math.abs(point.y - one.y) <= one.h / 2 + 2);
  }

  hover(point) {
    const found = this.hit(point);
    this.node.classList.toggle("pointing", Boolean(found));
    if (!found) return this.hoverTrack(point);
    const { group } = found;
    const state = t(`shell.vehicle.${STATES[group.worst]}`);
    const one = this.points[group.members[0]];
    return this.tip(found, group.count === 1 ? `${one.name || one.device}: ${state}`
      : t("fleet.map.cluster", { n: number(group.count), state }));
  }

  /** Over a point of the track: when that was and how well time and place are known. */
  hoverTrack(point) {
    let near = null;
    for (const place of this.frame ? this.track : []) {
      const [x, y] = this.frame.at(place.there);
      const away = Math.hypot(point.x - x, point.y - y);
      if (away <= TRACK_HIT_PX && (!near || away <= near.away)) near = { x, y, away, place };
    }
    if (!near) return this.tip(null);
    return this.tip(near, t("fleet.map.point", { at: near.place.at ? time.moment(near.place.at) : "–",
      distance: length(uncertainty(near.place)) }));
  }

  tip(found, text) {
    if (!found) {
      if (this.tooltip) this.tooltip.remove();
      this.tooltip = null;
      return;
    }
    if (!this.tooltip) this.tooltip = this.L.tooltip({ direction: "top", offset: [0, -14] });
    this.tooltip.setLatLng(this.map.containerPointToLatLng([found.x, found.y])).setContent(h("span", {}, text)).addTo(this.map);
  }

  click(point) {
    const found = this.hit(point);
    if (!found) return;
    const { group } = found;
    if (group.count === 1) {
      if (this.options.onVehicle) this.options.onVehicle(this.points[group.members[0]].device);
      return;
    }
    this.tip(null);
    const apart = group.east - group.west > 1e-9 || group.south - group.north > 1e-9;
    if (apart && this.map.getZoom() < this.map.getMaxZoom()) {
      const bounds = this.L.latLngBounds(this.unproject(group.west, group.north), this.unproject(group.east, group.south));
      const zoom = Math.max(this.map.getZoom() + 1, Math.min(this.map.getBoundsZoom(bounds.pad(0.2)), this.map.getMaxZoom()));
      this.map.setView(bounds.getCenter(), zoom, { animate: false });
    } else {
      this.listHere(group);
    }
  }

  /** Positions are coarse: vehicles of one yard stand on one point. Then they are listed, the worst first. */
  listHere(group) {
    const members = group.members.map((index) => this.points[index]).sort((a, b) => a.state - b.state);
    const content = h("div", { class: "here" }, h("p", { class: "strong" }, t("fleet.map.together", { n: number(group.count) })),
      h("ul", {}, members.slice(0, LISTED_AT_ONE_PLACE).map((one) => h("li", {},
        h("a", { href: `#/vehicle/${encodeURIComponent(one.device)}` }, one.name || one.device),
        ` · ${t(`shell.vehicle.${STATES[one.state]}`)}`))),
      members.length > LISTED_AT_ONE_PLACE ? h("p", {}, `+ ${number(members.length - LISTED_AT_ONE_PLACE)}`) : null);
    this.L.popup({ maxHeight: 220, autoPan: true }).setLatLng(this.unproject(group.x, group.y)).setContent(content)
      .openOn(this.map);
  }

  /** Removes what the node shows and leaves it empty. */
  blank() {
    clear(this.node);
  }
}

/** Half-width of a place in metres: the API's own, or that of the grid on which it gives coarse places. */
function uncertainty(place) {
  return place.unc_m ?? COARSE_M;
}

const signs = new Map();
function sign(state) {
  if (!signs.has(state)) signs.set(state, new Path2D(outline(state)));
  return signs.get(state);
}

/** All lines of a GeoJSON object: rings of polygons and line strings. */
function lineStrings(thing) {
  if (!thing) return [];
  if (thing.type === "FeatureCollection") return thing.features.flatMap(lineStrings);
  if (thing.type === "Feature") return lineStrings(thing.geometry);
  if (thing.type === "GeometryCollection") return thing.geometries.flatMap(lineStrings);
  if (thing.type === "LineString") return [thing.coordinates];
  if (thing.type === "Polygon" || thing.type === "MultiLineString") return thing.coordinates;
  if (thing.type === "MultiPolygon") return thing.coordinates.flat();
  return [];
}
