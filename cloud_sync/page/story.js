// One incident: what happened, how sure, what is known and what is not, what to do next, and who did what.

import { h, clear, ask, button, dialog, field, pairs, select } from "./dom.js";
import { icon } from "./icons.js";
import { t, number, language } from "./words.js";
import * as api from "./api.js";
import * as time from "./time.js";
import { caseState, cause, into, placeText, printButton, problemBox, section, titleState } from "./parts.js";
import { bigMark, copyButton, exportBundle, hash, logLink, original, placeMap, saidList, soon, sure, told,
  verifyHelp } from "./bits.js";
import { showLanes } from "./lanes.js";

const SENSOR_SIGNS = { position: "pin", tyres: "tyre", vibration: "health", tilt: "health", supply: "battery",
  case: "lock", radio: "radio", roadside: "radio" };
const NEEDS_NOTE = new Set(["escalate", "note", "confirm", "refute", "close", "reopen"]);
const VERB_SIGNS = { acknowledge: "check", assign: "person_add", escalate: "escalate", note: "note",
  confirm: "incident", refute: "close", close: "ok", reopen: "refresh" };
const DANGER = new Set(["refute"]);
const AGAIN_AFTER_MS = 400;

/** The view: #/incident/<id> */
export async function show(main, ctx, params) {
  const view = new Story(main, ctx, params.id);
  await view.load();
  return () => view.end();
}

class Story {
  constructor(main, ctx, id) {
    Object.assign(this, { main, ctx, id, path: `incidents/${encodeURIComponent(id)}`, drafts: new Map(), lanes: null,
      map: null, busy: false });
    this.parts = {
      top: h("div", { class: "stack" }), notice: h("div", {}), next: h("div", {}), known: h("div", { class: "split" }),
      time: section(t("incident.timeline")), evidence: h("div", {}), acts: h("div", {}),
        proof: h("div", { class: "split story-proof" }),
    };
    this.timeBox = h("div", {});
    this.parts.time.classList.add("story-time");
    this.parts.time.append(this.timeBox);
    main.append(...Object.values(this.parts));
    this.again = soon(() => this.refresh(), AGAIN_AFTER_MS);
    this.stop = ctx.live.on("incident", (row) => {
      if (row.id !== id) return;
      if (this.busy) this.missed = true;
      else this.again();
    });
  }

  end() {
    this.stop();
    this.again.stop();
    if (this.lanes) this.lanes();
    if (this.map) this.map.destroy();
  }

  async load() {
    this.story = await api.get(this.path, {}, { signal: this.ctx.signal });
    this.draw();
    into(this.timeBox, async () => {
      const found = await api.get(`${this.path}/timeline`, {}, { signal: this.ctx.signal });
      const box = h("div", {});
      clear(this.timeBox).append(box);
      this.lanes = showLanes(box, found, { opened: this.story.incident.opened });
      this.map = await placeMap(box, this.ctx, found.track, t("incident.track"));
      return box;
    });
  }

  /** Takes over what others did meanwhile. */
  async refresh() {
    try {
      const before = this.story.incident.version;
      this.story = await api.get(this.path, {}, { signal: this.ctx.signal });
      this.draw();
      if (this.story.incident.version !== before) this.ctx.announce(t("incident.changed", { what: this.lastAct() }));
    } catch (error) {
      if (error.name !== "AbortError") this.notice(problemBox(error, () => this.refresh()));
    }
  }

  lastAct() {
    const act = this.story.acts.at(-1);
    return act ? actSentence(act) : "";
  }

  notice(node) {
    clear(this.parts.notice);
    if (node) this.parts.notice.append(node);
  }

  draw() {
    const focus = document.activeElement && this.parts.next.contains(document.activeElement)
      ? document.activeElement.dataset.verb : null;
    this.drawTop();
    this.drawNext();
    this.drawKnown();
    this.drawEvidence();
    this.drawActs();
    this.drawProof();
    if (focus) {
      const again = this.parts.next.querySelector(`[data-verb="${focus}"]`) || this.parts.next.querySelector("button");
      if (again) again.focus();
    }
  }

  drawTop() {
    const row = this.story.incident;
    clear(this.parts.top).append(
      h("p", { class: "kicker" }, h("a", { href: "#/incidents", class: "back no-print" }, icon("left"),
        h("span", {}, t("incident.title"))), caseState(row.state),
        h("span", { class: "strong" }, cause(row.cause)), h("a",
          { href: `#/vehicle/${encodeURIComponent(row.device)}` }, row.name),
        row.branch ? h("span", { class: "sub" }, row.branch) : null, h("span", { class: "push no-print" }, printButton())),
      ...[bigMark(row.clock)].filter(Boolean),
      h("h1", { tabindex: "-1", class: "headline" }, told(row)), ...[original(row.sentence, row.sentence_zh)].filter(Boolean),
      h("div", { class: "card" }, this.facts(row)));
  }

  facts(row) {
    const { story } = this;
    return pairs([
      [t("incident.opened"), h("span", {}, time.momentNode(row.opened), " · ", time.agoNode(row.opened.at))],
      [t("incident.sure"), sure(row.confidence)],
      [t(row.place_of === "vehicle" ? "incident.place.last" : "incident.place"), h("span", {}, placeText(row.place), row.place && row.place.at ? [" · ",
        time.momentNode(row.place.at)] : null)],
      [t("incident.assignee"), row.assignee || t("incident.nobody")],
      [t("incident.device_says"), row.device_open ? t("incident.device_open") : row.closed_at
        ? t("incident.device_closed_at", { at: time.at(row.closed_at) }) : t("incident.device_closed")],
      [t("incident.title_state"), h("span", { class: "row" }, titleState(row.title_state),
        story.title && this.ctx.may("read:titles")
        ? h("a", { href: `#/title/${story.title}` }, t("incident.title_link")) : null)],
    ], { class: "pairs two" });
  }

  drawNext() {
    const { story } = this;
    clear(this.parts.next).append(h("section", { class: "card next" }, h("h2", {}, t("incident.next")),
      saidList(story.next, { ordered: true }) || h("p", { class: "sub" }, t("incident.next.none")),
      story.may.length ? h("div", { class: "actions no-print", role: "group", "aria-label": t("incident.actions") },
        story.may.map((verb, index) => button(t(`incident.verb.${verb}`), () => this.act(verb), {
          icon: VERB_SIGNS[verb], kind: index === 0 && verb !== "note" ? "primary" : DANGER.has(verb) ? "danger" : "",
            data: { verb },
        }))) : h("p", { class: "hint no-print" }, t(this.ctx.may("write:incidents")
          ? "incident.may.none" : "incident.may.read"))));
  }

  drawKnown() {
    const { known, unknown } = this.story;
    clear(this.parts.known).append(
      section(t("incident.known"), saidList(known) || h("p", { class: "sub" }, t("incident.known.none"))),
      section(t("incident.unknown"), saidList(unknown) || h("p", { class: "sub" }, t("incident.unknown.none"))));
  }

  drawEvidence() {
    const lines = this.story.evidence;
    clear(this.parts.evidence).append(section(t("incident.evidence"), lines.length ? h("ul", { class: "evidence" },
      lines.map((line) => {
      const chinese = language() === "zh" && line.text_zh && line.text_zh !== line.text;
      return h("li", {}, icon(SENSOR_SIGNS[line.sensor] || "info"), h("span", { class: "strong" },
        t(`incident.sensor.${line.sensor}`)),
        h("div", {}, h("span", chinese ? {} : { lang: "en" }, withTimes(chinese ? line.text_zh : line.text)),
          line.sensor === "roadside" ? null : original(line.text, line.text_zh)));
    })) : h("p", { class: "sub" }, t("incident.evidence.none"))));
  }

  drawActs() {
    const { acts } = this.story;
    clear(this.parts.acts).append(section(t("incident.history"), h("ol", { class: "acts" }, acts.map((act) => h("li", {},
      h("div", { class: "row" }, icon(VERB_SIGNS[act.action] || "incident"), h("span", { class: "strong" }, actSentence(act)),
        h("span", { class: "sub" }, time.atNode(act.at, "auto"), " · ", time.agoNode(act.at))),
      act.note ? h("blockquote", {}, act.note) : null,
      h("p", { class: "sub" }, logLink(act.log_index), act.statement ? [" · ", t("incident.statement"), " ",
        hash(act.statement)] : null))))));
  }

  drawProof() {
    const { story, ctx } = this;
    const bundle = h("div", { class: "exported" });
    const name = `incident-${story.incident.device}-${story.incident.id.split(".").at(-1)}.hfb`;
    const exact = h("div", { "aria-live": "polite" });
    clear(this.parts.proof).append(
      section(t("incident.proof"), pairs([
        [t("incident.segment"), hash(story.segment)], [t("incident.logged"), logLink(story.log_index)],
          [t("incident.id"), h("code", {}, story.incident.id)],
      ]), ctx.may("read:evidence") ? h("div", { class: "actions no-print" },
        button(t("record.export"), () => exportBundle(`${this.path}/evidence`, name,
        t("incident.bundle.said"), bundle), { icon: "download" })) : null, bundle,
          h("div", { class: "print-only" }, verifyHelp(name))),
      section(t("incident.exact"), h("p", {}, t(story.exact_place ? "incident.exact.said" : "incident.exact.none")),
        story.exact_place && ctx.may("read:exact") ? h("div", { class: "actions no-print" },
          button(t("incident.exact.go"), () => this.exact(exact), { icon: "pin" }))
          : story.exact_place ? h("p", { class: "hint" }, t("incident.exact.role")) : null, exact));
  }

  async exact(node) {
    const purpose = await ask(t("incident.exact"), { label: t("record.purpose"), hint: t("record.purpose.hint"), min: 3, max: 200,
      intro: t("incident.exact.audited"), submit: t("incident.exact.go") });
    if (purpose === null) return;
    try {
      const found = await api.send("POST", `${this.path}/exact`, { purpose });
      const text = `${found.lat.toFixed(4)}, ${found.lon.toFixed(4)}`;
      clear(node).append(h("div", { class: "stack" }, h("p", { class: "exact" }, h("code", {}, text), copyButton(text)),
        h("p", {}, time.momentNode(found.at, "always")), h("p", { class: "hint" }, t("incident.exact.datum")),
        h("p", { class: "hint" }, t("incident.exact.noted", { n: number(found.audit) }))));
    } catch (error) {
      clear(node).append(problemBox(error));
    }
  }

  // -- acting

  async act(verb) {
    this.busy = true;
    const version = this.story.incident.version;
    const done = await dialog(t(`incident.verb.${verb}`), (close) => this.form(verb, version, close));
    this.busy = false;
    if (this.missed && !done) this.again();
    this.missed = false;
    if (!done) return;
    if (done.story) {
      this.story = done.story;
      this.drafts.delete(verb);
      this.notice(null);
      this.draw();
      this.ctx.announce(t("incident.done", { what: this.lastAct() }));
    } else if (done.conflict) {
      await this.conflict(version);
    }
  }

  form(verb, version, close) {
    const needed = NEEDS_NOTE.has(verb);
    const note = field(t(needed ? "incident.note" : "incident.note.optional"),
      h("textarea", { rows: 4, maxlength: 2000, value: this.drafts.get(verb) || "", required: needed }),
        { hint: t(`incident.verb.${verb}.hint`) });
    const own = this.ctx.session.account.name;
    const able = this.story.assignable || this.ctx.session.accounts;
    const names = able.includes(own) ? [own, ...able.filter((name) => name !== own)] : able;
    const who = verb === "assign" ? field(t("incident.assign_to"),
      select(names.map((name) => [name, name === own ? t("incident.to_me", { name }) : name]),
      names.includes(this.story.incident.assignee) ? this.story.incident.assignee : names[0], null)) : null;
    const problem = h("div", {});
    const submit = h("button", { type: "submit", class: `button ${DANGER.has(verb) ? "danger" : "primary"}` },
      icon(VERB_SIGNS[verb]), h("span", {}, t(`incident.verb.${verb}`)));
    return h("form", { class: "stack", novalidate: true, onsubmit: async (event) => {
      event.preventDefault();
      const text = note.input.value.trim();
      this.drafts.set(verb, text);
      note.error(needed && !text ? t("incident.note.needed") : null);
      if (needed && !text) {
        note.input.focus();
        return;
      }
      submit.disabled = true;
      clear(problem);
      try {
        const body = { action: verb, version, note: text };
        if (who) body.assignee = who.input.value;
        close({ story: await api.send("POST", `${this.path}/acts`, body) });
      } catch (error) {
        submit.disabled = false;
        if (error.status === 409) close({ conflict: error });
        else problem.append(problemBox(error));
      }
    } }, problem, who ? who.node : null, note.node, h("p", { class: "hint" }, t("incident.signed")),
    h("div", { class: "actions" }, submit, button(t("shell.cancel"), () => {
      this.drafts.set(verb, note.input.value);
      close();
    })));
  }

  /** Somebody was faster: shows what they did and lets the reader decide anew; the typed note is kept. */
  async conflict(version) {
    try {
      this.story = await api.get(this.path, {}, { signal: this.ctx.signal });
    } catch (error) {
      if (error.name !== "AbortError") this.notice(problemBox(error, () => this.conflict(version)));
      return;
    }
    this.draw();
    const since = this.story.acts.filter((act) => act.number > version);
    const said = since.length ? since.map((act) => t("incident.conflict", { what: actSentence(act),
      ago: time.ago(act.at) })) : [t("incident.conflict.moved")];
    const box = h("div", { class: "notice warn", role: "alert", tabindex: "-1" }, icon("warning"), h("div", {},
      ...said.map((text) => h("p", { class: "strong" }, text)), h("p", {}, t("incident.conflict.look"))));
    this.notice(box);
    box.focus();
  }
}

const ISO = /\d{4}-\d\d-\d\dT[\d:.]+Z/g;

/** A line of the collector with its times as people read them. */
function withTimes(text) {
  return text.replace(ISO, (at) => time.at(at, "always"));
}

/** "Li Wei assigned this to Chen" */
export function actSentence(act) {
  const author = act.author === "device" ? t("incident.by.device") : act.author === "rule" ? t("incident.by.rule") : act.author;
  return t(`incident.did.${act.action}`, { author, assignee: act.assignee });
}

