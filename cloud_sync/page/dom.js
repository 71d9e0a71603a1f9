// Building the page: elements from data, never markup from data. Every text becomes a text node, so a device
// that is named "<img onerror=...>" shows up under exactly that name.

import { t } from "./words.js";
import { icon } from "./icons.js";

const PROPERTIES = new Set(["value", "checked", "selected", "disabled", "hidden", "required", "readOnly", "open",
  "multiple", "indeterminate"]);
const SAFE_LINK = /^(#|\/(?!\/)|https?:|mailto:|blob:)/i;

/** h("a", {href: "#/fleet", class: "x", onclick: f, data: {id: 1}}, "text", child, [more]) -> element.
 *  `on<event>` adds a listener, `data` fills dataset, `style` takes an object (set from script, as the policy
 *  of the server wants it); null, undefined and false leave out an attribute or a child. */
export function h(tag, attrs, ...children) {
  const node = document.createElement(tag);
  fill(node, attrs || {});
  append(node, children);
  return node;
}

/** The same for SVG. */
export function svg(tag, attrs, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(node, attrs || {});
  append(node, children);
  return node;
}

function fill(node, attrs) {
  for (const [name, value] of Object.entries(attrs)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on") && typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (name === "data") for (const [key, text] of Object.entries(value)) node.dataset[key] = text;
    else if (name === "style") for (const [key, text] of Object.entries(value)) node.style[key] = text;
    else if (PROPERTIES.has(name)) node[name] = value;
    else if (value === false) continue;
    else if ((name === "href" || name === "src") && !SAFE_LINK.test(String(value))) continue;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
}

/** Appends children: nodes, texts, numbers, nested lists. */
export function append(node, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

/** Removes all children. */
export function clear(node) {
  node.replaceChildren();
  return node;
}

let lastId = 0;
/** A document-wide unique id, for labels and descriptions. */
export function uid(prefix = "e") {
  lastId += 1;
  return `${prefix}-${lastId}`;
}

/** A real button. options: kind "primary" | "danger" | "quiet", icon, plus attributes. */
export function button(label, onclick, options = {}) {
  const { kind = "", icon: name = null, class: extra = "", ...attrs } = options;
  return h("button", { type: "button", class: `button ${kind} ${extra}`.trim(), onclick, ...attrs },
    name ? icon(name) : null, h("span", {}, label));
}

/** Colour, sign and word together. tone: bad | warn | note | good | mute. */
export function badge(label, tone = "mute", iconName = null, attrs = {}) {
  const { class: extra = "", ...rest } = attrs;
  return h("span", { class: `badge tone-${tone} ${extra}`.trim(), ...rest }, iconName ? icon(iconName) : null,
    h("span", {}, label));
}

/** A table which becomes a list of cards on a phone and stays a table for screen readers.
 *  columns: [{label, cell(row) -> node or text, class, head (row header), hideLabel}]
 *  options: {caption, captionHidden, rows, key(row), rowClass(row), class, empty} */
export function table(columns, options = {}) {
  const body = h("tbody", { role: "rowgroup" });
  const node = h("table", { class: `data ${options.class || ""}`.trim(), role: "table" },
    options.caption ? h("caption", { class: options.captionHidden ? "visually-hidden" : null }, options.caption) : null,
    h("thead", { role: "rowgroup" },
      h("tr", { role: "row" }, columns.map((column) => h("th",
        { scope: "col", role: "columnheader", class: column.class }, column.label)))),
    body);
  for (const row of options.rows || []) body.append(tableRow(columns, row, options));
  return node;
}

/** One row for `table`, so that live views can add and exchange rows. */
export function tableRow(columns, row, options = {}) {
  return h("tr", { role: "row", class: options.rowClass ? options.rowClass(row) : null,
    data: options.key ? { key: options.key(row) } : {} },
    columns.map((column) => h(column.head ? "th" : "td",
      { scope: column.head ? "row" : null, role: column.head ? "rowheader" : "cell", class: column.class,
        data: column.hideLabel ? {} : { label: column.label } },
      column.cell(row))));
}

/** Term and description pairs: [[term, description], ...]; empty descriptions are left out. */
export function pairs(items, attrs = {}) {
  return h("dl", { class: "pairs", ...attrs }, items
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

/** A labelled control: {node, input, error(text or null)}. input: an element, or attributes of an <input>.
 *  The hint and the error are read out with the control. */
export function field(label, input, options = {}) {
  const id = uid("field");
  const control = input instanceof Node ? input : h("input", { type: "text", ...input });
  control.id = id;
  const hint = options.hint ? h("p", { class: "hint", id: `${id}-hint` }, options.hint) : null;
  const error = h("p", { class: "error", id: `${id}-error`, hidden: true });
  const said = [hint ? `${id}-hint` : "", `${id}-error`].join(" ").trim();
  control.setAttribute("aria-describedby", said);
  const node = h("div", { class: `field ${options.class || ""}`.trim() },
    h("label", { for: id, class: options.labelHidden ? "visually-hidden" : null }, label), hint, control, error);
  return {
    node,
    input: control,
    error(text) {
      clear(error);
      error.hidden = !text;
      if (text) append(error, [icon("warning"), text]);
      if (text) control.setAttribute("aria-invalid", "true");
      else control.removeAttribute("aria-invalid");
    },
  };
}

/** A <select>: options [[value, label], ...]. */
export function select(options, value, onchange, attrs = {}) {
  return h("select", { onchange, ...attrs }, options.map(([key, label]) =>
    h("option", { value: key, selected: key === value }, label)));
}

/** A check box with its label. */
export function check(label, checked, onchange, attrs = {}) {
  const input = h("input", { type: "checkbox", checked, onchange, ...attrs });
  return { node: h("label", { class: "check" }, input, h("span", {}, label)), input };
}

/** A modal dialog. build(close) returns its content; the promise gives what close() was given, or null where
 *  it was left by Escape or the close button. Focus goes in and comes back, as <dialog> does it. */
export function dialog(title, build, options = {}) {
  return new Promise((resolve) => {
    const id = uid("dialog");
    let result = null;
    const before = document.activeElement;
    const node = h("dialog", { class: `dialog ${options.class || ""}`.trim(), "aria-labelledby": id });
    const close = (value = null) => {
      result = value;
      node.close();
    };
    append(node, [h("div", { class: "dialog-head" }, h("h2", { id }, title),
      h("button", { type: "button", class: "button quiet icon-only", "aria-label": t("shell.close"),
        onclick: () => close(null) }, icon("close"))),
    h("div", { class: "dialog-body" }, build(close))]);
    node.addEventListener("close", () => {
      node.remove();
      const back = before && !before.isConnected && before.id ? document.getElementById(before.id) : before;
      if (back instanceof HTMLElement && back.isConnected) back.focus();
      resolve(result);
    });
    document.body.append(node);
    node.showModal();
  });
}

/** Asks for one text: a purpose, a note. Gives the text or null.
 *  options: {label, hint, min, max, many (several lines), submit, intro} */
export function ask(title, options) {
  return dialog(title, (close) => {
    const entry = field(options.label, options.many
      ? h("textarea", { rows: 4, maxlength: options.max || 2000 })
      : { maxlength: options.max || 200, autocomplete: "off" }, { hint: options.hint });
    const form = h("form", { novalidate: true, onsubmit: (event) => {
      event.preventDefault();
      const text = entry.input.value.trim();
      if (text.length < (options.min || 0)) {
        entry.error(t("shell.too_short", { n: options.min }));
        entry.input.focus();
        return;
      }
      close(text);
    } }, options.intro ? h("p", {}, options.intro) : null, entry.node,
    h("div", { class: "actions" }, h("button", { type: "submit", class: "button primary" },
      h("span", {}, options.submit || t("shell.ok"))), button(t("shell.cancel"), () => close(null))));
    return form;
  });
}

/** Asks yes or no; gives true or false. */
export async function confirm(title, text, yes, kind = "danger") {
  return Boolean(await dialog(title, (close) => h("div", {}, h("p", {}, text),
    h("div", { class: "actions" }, button(yes, () => close(true), { kind }),
      button(t("shell.cancel"), () => close(false))))));
}
