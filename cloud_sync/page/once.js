// What the management views share: their tabs, secrets that are shown once, and forms in a dialog.

import { h, append, button, dialog, uid } from "./dom.js";
import { icon } from "./icons.js";
import { problemLines } from "./parts.js";
import { t, language } from "./words.js";

const TABS = ["accounts", "tokens", "rules", "webhooks", "deliveries"];
const OF_ALL_BRANCHES = new Set(["webhooks", "deliveries"]);
const COPIED_MS = 2500;

/** Whether this account manages accounts, rules and webhooks; anybody has tokens of their own. */
export function manages(ctx) {
  return ctx.session.scopes.includes("manage");
}

/** Whether it sees some branches only: webhooks and messages belong to all of them. */
export function confined(ctx) {
  return ctx.session.account.branches.length > 0;
}

/** Links to the parts of the administration that this account may see. */
export function tabs(ctx, here) {
  const shown = !manages(ctx) ? ["tokens"] : confined(ctx) ? TABS.filter((name) => !OF_ALL_BRANCHES.has(name)) : TABS;
  return h("nav", { class: "tabs no-print", "aria-label": t("admin.parts") }, shown.map((name) => h("a",
    { href: `#/admin/${name}`, "aria-current": name === here ? "page" : null }, t(`admin.tab.${name}`))));
}

/** Shows a secret the only time that it can be shown, with a button that copies it. */
export function showOnce(title, { label, value, text }) {
  return dialog(title, (close) => {
    const id = uid("secret");
    const said = h("p", { class: "hint", role: "status" });
    const entry = h("input", { id, type: "text", readonly: true, value, class: "mono", spellcheck: "false",
      onfocus: (event) => event.target.select() });
    const copy = button(t("admin.copy"), async () => {
      try {
        await navigator.clipboard.writeText(value);
        said.textContent = t("admin.copied");
        setTimeout(() => { said.textContent = ""; }, COPIED_MS);
      } catch { /* no permission for the clipboard: the text is selected, the keyboard copies it */
        entry.focus();
        said.textContent = t("admin.copy_by_hand");
      }
    }, { icon: "copy", kind: "primary" });
    return h("div", {}, h("div", { class: "notice warn" }, icon("warning"), h("p", {}, t("admin.once"))),
      h("p", {}, text), h("div", { class: "field" }, h("label", { for: id }, label), entry), said,
      h("div", { class: "actions" }, copy, button(t("admin.done"), () => close(true))));
  });
}

/** A form in a dialog. fields: nodes; save() -> promise of the result, which may throw an ApiProblem; the
 *  dialog stays open with what went wrong. Gives what save() gave, or null where it was left. */
export function formDialog(title, { intro, fields, submit, save }) {
  return dialog(title, (close) => {
    const trouble = h("div", { role: "alert" });
    const go = h("button", { type: "submit", class: "button primary" }, h("span", {}, submit));
    const form = h("form", { novalidate: true, onsubmit: async (event) => {
      event.preventDefault();
      trouble.replaceChildren();
      go.disabled = true;
      try {
        const made = await save();
        if (made !== undefined) close(made);
      } catch (error) {
        trouble.replaceChildren(troubleBox(error));
      } finally {
        go.disabled = false;
      }
    } }, intro ? h("p", {}, intro) : null, fields, trouble,
    h("div", { class: "actions" }, go, button(t("shell.cancel"), () => close(null))));
    return form;
  });
}

function troubleBox(error) {
  return h("div", { class: "notice bad" }, icon("warning"), h("div", {}, problemLines(error)));
}

/** Does something; what goes wrong is told in a dialog, because the list below it stays as it was. */
export async function attempt(act) {
  try {
    await act();
  } catch (error) {
    if (error.name === "AbortError") return;
    await dialog(t("admin.not_done"), () => troubleBox(error));
  }
}

/** A group of check boxes under one legend: {node, values()}. options: [[value, label], ...]. */
export function checks(legend, options, chosen, { hint, onchange } = {}) {
  const hintId = uid("hint");
  const boxes = options.map(([value, label]) => {
    const id = uid("check");
    const input = h("input", { type: "checkbox", id, checked: chosen.includes(value), onchange,
      "aria-describedby": hint ? hintId : null });
    return { value, input, node: h("label", { for: id }, input, h("span", {}, label)) };
  });
  const node = append(h("fieldset", { class: "choice" }), [h("legend", {}, legend),
    hint ? h("p", { class: "hint", id: hintId }, hint) : null, boxes.map((box) => box.node)]);
  return { node, values: () => boxes.filter((box) => box.input.checked).map((box) => box.value) };
}

/** A text of names, separated by commas, as a list; both commas of the Chinese keyboard count. */
export function listOf(text) {
  return [...new Set(text.split(/[,，、;；\n]/).map((part) => part.trim()).filter(Boolean))];
}

/** Names as one text, in the way of the language. */
export function joined(names) {
  return new Intl.ListFormat(language() === "zh" ? "zh-CN" : "en-GB").format(names);
}
