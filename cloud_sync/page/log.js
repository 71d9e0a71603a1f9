// The transparency log, and "verify it yourself": the browser computes what the server claims.

import { h, append, clear, button, field, pairs, table } from "./dom.js";
import { icon } from "./icons.js";
import { t, number } from "./words.js";
import * as api from "./api.js";
import * as time from "./time.js";
import * as merkle from "./merkle.js";
import { emptyBox, head, printButton, problemBox, section } from "./parts.js";
import { command, copyButton, hash, soon, wordOf } from "./bits.js";

const PAGE = 25;
const AGAIN_AFTER_MS = 3000;
const BAD_HEADS = new Set(["shrank", "forked"]);

/** The view: #/log?index= */
export async function show(main, ctx, params) {
  const view = new Log(main, ctx);
  await view.load();
  const wanted = params.query.get("index");
  if (wanted !== null && /^\d{1,15}$/.test(wanted)) await view.verify(Number(wanted), false);
  return () => view.end();
}

class Log {
  constructor(main, ctx) {
    Object.assign(this, { ctx, rows: [], next: null });
    this.warning = h("div", {});
    this.state = h("div", { class: "split" });
    this.checks = h("ul", { class: "checks" });
    this.proof = h("div", { "aria-live": "polite" });
    this.list = h("div", { class: "stack" });
    this.index = field(t("record.log.index"), { inputmode: "numeric", autocomplete: "off", maxlength: 15 },
      { hint: t("record.log.index.hint"), class: "grow" });
    main.append(head(t("record.log.title"), t("record.log.said"), [printButton()]), this.warning, this.state,
      section(t("record.log.self"), h("p", {}, t("record.log.self.said")), h("div", { role: "status" }, this.checks),
        h("form", { class: "toolbar", novalidate: true, onsubmit: (event) => {
        event.preventDefault();
        this.submitted();
      } }, this.index.node, h("button", { type: "submit", class: "button primary" }, icon("check"),
        h("span", {}, t("record.log.check")))), this.proof),
      h("section", { class: "stack", "aria-labelledby": "entries" }, h("h2", { id: "entries" },
        t("record.log.entries")), this.list), offline());
    this.again = soon(() => this.refresh(), AGAIN_AFTER_MS);
    this.stop = ctx.live.on("log", () => this.again());
  }

  end() {
    this.stop();
    this.again.stop();
  }

  async load() {
    this.log = await api.get("log", {}, { signal: this.ctx.signal });
    this.drawState();
    await Promise.all([this.check(), this.entries()]);
  }

  async refresh() {
    try {
      this.log = await api.get("log", {}, { signal: this.ctx.signal });
      this.drawState();
      await this.check();
      if (this.rows.length <= PAGE && !this.list.contains(document.activeElement)) await this.entries();
    } catch { /* what is on the page stays; the line of the shell says that the server is away */ }
  }

  drawState() {
    const { log } = this;
    clear(this.state).append(
      section(t("record.log.now"), log.origin ? pairs([
        [t("record.log.origin"), h("code", {}, log.origin)],
        [t("record.log.size"), t("record.log.size.said", { n: number(log.size) })],
        [t("record.log.made"), log.made_at ? h("span", {}, time.agoNode(log.made_at), " · ",
          time.atNode(log.made_at, "always")) : t("record.log.unsigned")],
        [t("record.log.pending"), log.pending ? t("record.log.pending.said",
          { n: number(log.pending) }) : t("record.log.pending.none")],
        [t("record.log.cosigners"), log.cosigners.length ? log.cosigners.join(", ") : t("record.log.cosigners.none")],
      ]) : h("p", {}, t("record.log.no_origin"))),
      section(t("record.log.signed"), pairs([[t("record.log.root"), hash(log.root, true)],
        [t("record.log.key"), log.log_key ? h("span", { class: "hash" }, h("code", {}, log.log_key),
        copyButton(log.log_key)) : null]]),
        log.checkpoint ? h("details", {}, h("summary", {}, t("record.log.checkpoint")), h("pre", {}, log.checkpoint),
          h("p", { class: "hint" }, t("record.log.checkpoint.said"), " ", h("a", { href: "/api/v1/log/checkpoint" },
            "/api/v1/log/checkpoint"))) : null));
  }

  // -- the checkpoint and what this browser saw before

  async check() {
    clear(this.checks);
    clear(this.warning);
    if (!this.log.checkpoint) {
      this.say("none", t("record.log.unsigned"));
      return;
    }
    try {
      const parsed = merkle.parseCheckpoint(this.log.checkpoint);
      const signature = await merkle.checkSignature(parsed, this.log.log_key);
      this.say(signature === "good" ? "good" : signature === "unsupported" ? "none" : "bad", t(`record.signature.${signature}`));
      if (signature === "bad" || signature === "unsigned") this.alarm(t(`record.signature.${signature}`));
      const given = parsed.size === this.log.size && merkle.toHex(parsed.root) === this.log.root
        && parsed.origin === this.log.origin;
      if (!given) this.say("bad", t("record.log.differs"));
      else if (signature !== "bad" && signature !== "unsigned") await this.compare(parsed);
    } catch (error) {
      this.say("bad", proofWords(error));
    }
  }

  async compare(parsed) {
    const now = { size: parsed.size, root: merkle.toHex(parsed.root), at: this.log.made_at || this.log.now };
    const seen = merkle.seenHead(localStorage, parsed.origin);
    const how = merkle.compareHeads(seen, now);
    const values = seen ? { size: number(seen.size), at: time.at(seen.at, "always"), now: number(now.size),
      root: seen.root, root_now: now.root } : {};
    if (BAD_HEADS.has(how)) {
      this.say("bad", t(`record.seen.${how}`, values));
      this.alarm(t(`record.seen.${how}`, values), seen);
      return;
    }
    if (how === "grown" && !(await this.grown(seen, now, values))) return;
    if (how !== "grown") this.say("good", t(`record.seen.${how}`, values));
    if (!merkle.rememberHead(localStorage, parsed.origin, now)) this.say("none", t("record.seen.forgets"));
  }

  async grown(seen, now, values) {
    try {
      await merkle.checkGrowth(seen, now, tile);
      this.say("good", t("record.seen.grown", values));
      return true;
    } catch (error) {
      if (error.code === "record.proof.rewritten" || error.code === "record.proof.tiles_differ") {
        this.say("bad", t("record.seen.rewritten", values));
        this.alarm(t("record.seen.rewritten", values), seen);
      } else {
        this.say("none", t("record.seen.unchecked", values));
      }
      return false;
    }
  }

  say(tone, text) {
    this.checks.append(h("li", { class: `check-${tone}` }, icon(tone === "good" ? "ok" : tone === "bad" ? "warning" : "question"),
      h("span", {}, h("span", { class: "strong" }, t(`record.check.${tone}`)), " ", text)));
  }

  alarm(text, seen = null) {
    clear(this.warning).append(h("div", { class: "notice bad loud", role: "alert" }, icon("warning"),
      h("div", {}, h("h2", {}, t("record.log.alarm")), h("p", {}, text),
      h("p", {}, t("record.log.alarm.do")), seen ? h("pre", {},
        `${this.log.origin}\n${seen.size}\n${seen.root}\n${seen.at}`) : null)));
  }

  // -- one entry

  submitted() {
    const text = this.index.input.value.trim();
    const good = /^\d{1,15}$/.test(text) && Number(text) < this.log.size;
    this.index.error(good ? null : this.log.size ? t("record.log.index.bad",
      { last: this.log.size - 1 }) : t("record.log.unsigned"));
    if (good) this.verify(Number(text), true);
    else this.index.input.focus();
  }

  async verify(index, focus) {
    this.index.input.value = String(index);
    this.index.error(null);
    this.ctx.setQuery({ index });
    clear(this.proof).append(h("p", { class: "sub" }, t("record.log.checking")));
    let found;
    try {
      found = await api.get("log/proof", { index }, { signal: this.ctx.signal });
    } catch (error) {
      if (error.name !== "AbortError") clear(this.proof).append(problemBox(error, () => this.verify(index, focus)));
      return;
    }
    const box = h("div", { class: "proof", tabindex: "-1" });
    try {
      append(box, await this.steps(index, found));
    } catch (error) {
      append(box, [h("div", { class: "notice bad loud", role: "alert" }, icon("warning"),
        h("div", {}, h("h3", {}, t("record.proof.fails", { index })), h("p", {}, proofWords(error)),
        h("p", {}, t("record.log.alarm.do"))))]);
    }
    clear(this.proof).append(box);
    if (focus) box.focus();
  }

  async steps(index, found) {
    const parsed = merkle.parseCheckpoint(found.checkpoint);
    if (parsed.size !== found.size || found.index !== index) throw new merkle.ProofError("record.proof.bad_checkpoint");
    const signature = await merkle.checkSignature(parsed, this.log.log_key);
    if (signature === "bad" || signature === "unsigned") throw new merkle.ProofError(`record.signature.${signature}`);
    const leaf = await merkle.leafHash(merkle.fromHex(found.entry));
    const steps = await merkle.verifyInclusion(index, parsed.size, leaf, found.proof.map(merkle.fromHex), parsed.root);
    const line = (what, formula, value) => h("li", {}, h("p", {}, what), h("p", { class: "formula" },
      h("code", {}, formula)), value ? h("p", { class: "result" }, "= ", h("code", {}, value)) : null);
    return [
      h("div", { class: "notice good" }, icon("ok"), h("div", {},
        h("h3", {}, t("record.proof.holds", { index: number(index), size: number(parsed.size) })),
        h("p", {}, t(signature === "good" ? "record.proof.holds.said" : "record.proof.holds.unsupported")))),
      h("details", { open: steps.length <= 6 }, h("summary", {}, t("record.proof.steps", { n: steps.length + 2 })),
        h("ol", { class: "steps proof-steps" },
        line(t("record.proof.leaf"), `SHA-256(00 ‖ ${found.entry})`, merkle.toHex(leaf)),
        steps.map((step) => line(t(`record.proof.${step.side}`), step.side === "left"
          ? `SHA-256(01 ‖ ${merkle.toHex(step.sibling)} ‖ ${t("record.proof.above")})`
          : `SHA-256(01 ‖ ${t("record.proof.above")} ‖ ${merkle.toHex(step.sibling)})`, merkle.toHex(step.result))),
        line(t("record.proof.compare"), `${t("record.log.root")}: ${merkle.toHex(parsed.root)}`, null))),
    ];
  }

  // -- the list

  async entries(cursor = null) {
    try {
      const found = await api.get("log/entries", { limit: PAGE, cursor }, { signal: this.ctx.signal });
      const before = cursor ? this.rows.length : 0;
      this.rows = cursor ? this.rows.concat(found.items) : found.items;
      this.draw(found.next, before);
    } catch (error) {
      if (error.name !== "AbortError") clear(this.list).append(problemBox(error, () => this.entries(cursor)));
    }
  }

  draw(next, before) {
    if (!this.rows.length) {
      clear(this.list).append(emptyBox(t("record.log.empty"), null));
      return;
    }
    const made = table([
      { label: t("record.log.number"), class: "num", head: true, cell: (row) => number(row.index) },
      { label: t("record.log.what"), cell: (row) => h("div", {}, kindText(row),
        row.erased ? h("div", { class: "sub" }, icon("minus"), " ", t("record.log.erased")) : null) },
      { label: t("record.device"), cell: (row) => (row.device ? h("a",
        { href: `#/vehicle/${encodeURIComponent(row.device)}` }, row.device) : h("span", { class: "none" }, "–")) },
      { label: t("record.log.at"), cell: (row) => time.atNode(row.at) },
      { label: t("record.log.hash"), cell: (row) => hash(row.hash) },
      { label: t("record.log.check"), class: "no-print", cell: (row) => (row.index < this.log.size
        ? button(t("record.log.check"), () => this.verify(row.index, true),
          { kind: "quiet", icon: "check", "aria-label": t("record.log.check.entry", { index: row.index }) })
        : h("span", { class: "sub" }, t("record.log.not_yet"))) },
    ], { caption: t("record.log.entries"), captionHidden: true, rows: this.rows, key: (row) => String(row.index) });
    clear(this.list).append(made);
    if (next) this.list.append(h("div", { class: "pager" }, button(t("record.more"), () => this.entries(next),
      { icon: "down" })));
    if (before) made.querySelectorAll("tbody tr")[before]?.querySelector("button").focus();
  }
}

function kindText(row) {
  if (row.kind === "other tenant") return t("record.kind.other");
  if (row.kind === "segment") return t("record.kind.segment");
  return row.type ? wordOf("record.type", row.type) : t("record.kind.statement");
}

function proofWords(error) {
  return error instanceof merkle.ProofError ? t(error.code, error.params) : t("record.proof.failed", { what: error.message });
}

/** A tile of the log, as any tool fetches it. */
async function tile(path) {
  const answer = await fetch(`/log/${path}`, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(`/log/${path}: ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

function offline() {
  return section(t("record.offline"), h("p", {}, t("record.offline.said")),
    command("holdfast verify incident.hfb --trust trust.json"), command("holdfast log --config collector.toml"),
    h("p", { class: "hint" }, t("record.verify.trust"), " ", h("a",
      { href: "/api/v1/log/trust", download: "trust.json" }, icon("download"), " trust.json")));
}
