// The one place that talks to the server. Errors come as problem details (RFC 9457) and are thrown as ApiProblem.

const BASE = "/api/v1/";
let csrf = "";
let onUnauthorized = () => {};
let onNow = () => {};

/** What went wrong: code and remedy are the server's; `network` when it was not reached at all. */
export class ApiProblem extends Error {
  constructor(problem) {
    super(problem.detail || problem.title || problem.code);
    this.name = "ApiProblem";
    this.code = problem.code || "unknown";
    this.title = problem.title || "";
    this.detail = problem.detail || "";
    this.remedy = problem.remedy || "";
    this.status = problem.status || 0;
    this.retryAfter = problem.retryAfter || null;
  }
}

/** Called by the shell: the session's token for requests that change something. */
export function useToken(token) {
  csrf = token || "";
}

/** Called by the shell: what to do when the session has ended, and with each `now` of the server. */
export function handlers({ unauthorized, now }) {
  if (unauthorized) onUnauthorized = unauthorized;
  if (now) onNow = now;
}

/** /api/v1/<path>?<params>; lists repeat their name, null and "" are left out. */
export function url(path, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const one of [value].flat()) if (one !== null && one !== undefined && one !== "") query.append(name, one);
  }
  const text = query.toString();
  return BASE + path.replace(/^\//, "") + (text ? `?${text}` : "");
}

/** GET, parsed. options: {signal}. Never touches the session clock or token. */
export function get(path, params = {}, options = {}) {
  return call("GET", url(path, params), undefined, options);
}

/** POST, PUT, PATCH or DELETE with a JSON body; null where the answer has none. */
export function send(method, path, body, options = {}) {
  return call(method, url(path), body, options);
}

/** POST that answers with a file: {blob, name}. */
export async function file(path, body, options = {}) {
  const answer = await reach("POST", url(path), body, options);
  const named = /filename="?([^";]+)"?/.exec(answer.headers.get("Content-Disposition") || "");
  return { blob: await answer.blob(), name: named ? named[1] : "holdfast.hfb" };
}

/** Text of a GET, such as the signed checkpoint. */
export async function text(path, options = {}) {
  return (await reach("GET", url(path), undefined, options)).text();
}

/** Hands a blob to the browser as a download. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function call(method, address, body, options) {
  const answer = await reach(method, address, body, options);
  if (answer.status === 204) return null;
  const type = answer.headers.get("Content-Type") || "";
  if (!type.includes("json")) throw new ApiProblem({ code: "not_json", status: answer.status });
  const data = await answer.json();
  if (data && typeof data.now === "string") onNow(data.now);
  return data;
}

async function reach(method, address, body, options) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET" && csrf) headers["X-CSRF-Token"] = csrf;
  let answer;
  try {
    answer = await fetch(address, { method, headers, credentials: "same-origin", signal: options.signal,
      body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiProblem({ code: "network", status: 0 });
  }
  if (answer.ok) return answer;
  const problem = await problemOf(answer);
  if (answer.status === 401 && !options.quiet) onUnauthorized(problem);
  throw problem;
}

async function problemOf(answer) {
  let found = {};
  try {
    found = await answer.json();
  } catch { /* a proxy's page instead of a problem: the status says enough */ }
  return new ApiProblem({ code: `http_${answer.status}`, ...found, status: answer.status,
    retryAfter: Number(answer.headers.get("Retry-After")) || null });
}
