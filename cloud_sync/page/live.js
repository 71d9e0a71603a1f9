// The live stream: server-sent events, read with fetch rather than EventSource, because a page that claims to be
// live must notice when it is not: it sees the keep-alive comments (a silence of 45 s means the line is dead)
// and the status of a refusal (401: the session has ended). It resumes after the last event that it saw.

const SILENCE_MS = 45_000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 20_000;

export class Live {
  constructor(address = "/api/v1/live") {
    this.address = address;
    this.listeners = new Map();
    this.lastId = null;
    this.state = "idle";
    this.running = false;
    this.attempt = 0;
    this.wake = null;
    window.addEventListener("online", () => this.hurry());
    window.addEventListener("offline", () => {
      if (this.running) this.drop();
    });
  }

  /** on("incident", f(data, id)); also "state" (connecting | live | lost | ended). Gives the way to stop it. */
  on(type, listener) {
    if (!this.listeners.has(type)) this.listeners.set(type, new Set());
    this.listeners.get(type).add(listener);
    return () => this.listeners.get(type).delete(listener);
  }

  emit(type, data, id = null) {
    for (const listener of [...(this.listeners.get(type) || [])]) listener(data, id);
  }

  /** Begins, after the feed's place `after` where one is known. */
  start() {
    if (this.running) return;
    this.running = true;
    this.loop();
  }

  /** Ends for good (logout); start() begins anew. */
  stop() {
    this.running = false;
    this.lastId = null;
    this.attempt = 0;
    this.drop();
    this.hurry();
    this.set("idle");
  }

  /** Cuts the present connection; the loop makes the next one. */
  drop() {
    if (this.abort) this.abort.abort();
  }

  /** Tries again now instead of after the pause. */
  hurry() {
    if (this.wake) this.wake();
  }

  set(state) {
    if (state === this.state) return;
    this.state = state;
    this.emit("state", state);
  }

  async loop() {
    while (this.running) {
      if (this.state !== "lost") this.set("connecting");
      const ended = await this.connection();
      if (!this.running) return;
      if (ended === 401 || ended === 403) {
        this.running = false;
        this.set("ended");
        return;
      }
      this.set("lost");
      const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.attempt) * (0.75 + Math.random() / 2);
      this.attempt += 1;
      await this.pause(wait);
    }
  }

  pause(ms) {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.wake = null;
        resolve();
      };
      const timer = setTimeout(done, ms);
      this.wake = done;
    });
  }

  /** One connection, until it ends; gives the status of a refusal. */
  async connection() {
    this.abort = new AbortController();
    let alarm = null;
    const alive = () => {
      clearTimeout(alarm);
      alarm = setTimeout(() => this.abort.abort(), SILENCE_MS);
    };
    try {
      alive();
      const headers = { Accept: "text/event-stream" };
      if (this.lastId !== null) headers["Last-Event-ID"] = this.lastId;
      const answer = await fetch(this.address, { headers, credentials: "same-origin", cache: "no-store",
        signal: this.abort.signal });
      if (!answer.ok || !answer.body) return answer.status;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const parser = new Events((type, data, id) => this.take(type, data, id));
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return null;
        alive();
        if (this.running) this.set("live");
        this.attempt = 0;
        parser.push(value);
      }
    } catch {
      return null;
    } finally {
      clearTimeout(alarm);
    }
  }

  take(type, text, id) {
    if (id !== null) this.lastId = id;
    let data;
    try {
      data = JSON.parse(text);
    } catch {
      return;
    }
    if (type === "hello" && this.lastId === null && data.feed !== undefined) this.lastId = String(data.feed);
    this.emit(type, data, id);
  }
}

/** The text/event-stream format (WHATWG HTML, section 9.2), in pieces as they come. */
export class Events {
  constructor(give) {
    this.give = give;
    this.rest = "";
    this.reset();
  }

  reset() {
    this.type = "message";
    this.data = [];
    this.id = null;
  }

  push(piece) {
    const lines = (this.rest + piece).split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop();
    for (const line of lines) this.line(line);
  }

  line(line) {
    if (line === "") {
      if (this.data.length) this.give(this.type, this.data.join("\n"), this.id);
      this.reset();
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.type = value;
    else if (name === "data") this.data.push(value);
    else if (name === "id" && !value.includes("\0")) this.id = value;
  }
}
