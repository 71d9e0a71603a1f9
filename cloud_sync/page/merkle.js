// Checks the transparency log in the browser: RFC 9162 proofs, C2SP tiles, C2SP checkpoints.
//
// Nothing here trusts the server: a root is computed from what it sent and compared with the root that the
// log's key signed. SHA-256 and Ed25519 come from WebCrypto, which browsers offer on https and on loopback.
// Everything that does not hold throws ProofError with a code of the words (`record.proof.*`).

export const HASH_BYTES = 32;
export const MAX_PROOF = 126;
export const MAX_NOTE_CHARS = 64 * 1024;
export const TILE_WIDTH = 256;
const ED25519 = 1;
const KEY_ID_BYTES = 4;

export class ProofError extends Error {
  constructor(code, params = {}) {
    super(`${code} ${JSON.stringify(params)}`);
    this.code = code;
    this.params = params;
  }
}

// --- bytes

export function fromHex(text) {
  if (typeof text !== "string" || !/^([0-9a-f]{2})*$/.test(text)) {
    throw new ProofError("record.proof.not_hex");
  }
  return Uint8Array.from(text.match(/../g) || [], (pair) => parseInt(pair, 16));
}

export function toHex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function fromBase64(text) {
  let raw;
  try {
    raw = atob(text);
  } catch {
    throw new ProofError("record.proof.not_base64");
  }
  if (btoa(raw) !== text) throw new ProofError("record.proof.not_base64");
  return Uint8Array.from(raw, (char) => char.charCodeAt(0));
}

function joined(...parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function same(left, right) {
  return left.length === right.length && left.every((byte, at) => byte === right[at]);
}

// --- hashes (RFC 9162 section 2.1.1)

export function canHash() {
  return Boolean(globalThis.crypto && globalThis.crypto.subtle);
}

export async function sha256(bytes) {
  if (!canHash()) throw new ProofError("record.proof.no_crypto");
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

export function leafHash(entry) {
  return sha256(joined(Uint8Array.of(0), entry));
}

export function nodeHash(left, right) {
  return sha256(joined(Uint8Array.of(1), left, right));
}

// --- proofs; sizes stay below 2^53, so plain numbers hold them, but not the 32-bit operators

const odd = (number) => number % 2 === 1;
const half = (number) => Math.floor(number / 2);

function checkSize(...numbers) {
  for (const number of numbers) {
    if (!Number.isSafeInteger(number) || number < 0) throw new ProofError("record.proof.no_number");
  }
}

function checkHashes(...hashes) {
  if (hashes.length > MAX_PROOF + 2) throw new ProofError("record.proof.too_long");
  if (hashes.some((hash) => hash.length !== HASH_BYTES)) throw new ProofError("record.proof.not_hash");
}

// The root that follows from `leaf` at `index` of a tree of `size` leaves (RFC 9162 section 2.1.3.2), and each
// step: {side: where the sibling stands, sibling, result}.
export async function inclusionSteps(index, size, leaf, proof) {
  checkSize(index, size);
  if (index >= size) throw new ProofError("record.proof.no_leaf", { index, size });
  checkHashes(leaf, ...proof);
  let fn = index;
  let sn = size - 1;
  let result = leaf;
  const steps = [];
  for (const sibling of proof) {
    if (sn === 0) throw new ProofError("record.proof.too_long");
    const left = odd(fn) || fn === sn;
    result = left ? await nodeHash(sibling, result) : await nodeHash(result, sibling);
    steps.push({ side: left ? "left" : "right", sibling, result });
    if (left) {
      while (!odd(fn) && fn !== 0) {
        fn = half(fn);
        sn = half(sn);
      }
    }
    fn = half(fn);
    sn = half(sn);
  }
  if (sn !== 0) throw new ProofError("record.proof.too_short");
  return { root: result, steps };
}

export async function verifyInclusion(index, size, leaf, proof, root) {
  const found = await inclusionSteps(index, size, leaf, proof);
  if (!same(found.root, root)) throw new ProofError("record.proof.other_root", { index, size });
  return found.steps;
}

// That the tree of `second` leaves begins with the tree of `first` leaves (RFC 9162 section 2.1.4.2).
export async function verifyConsistency(first, second, firstRoot, secondRoot, proof) {
  checkSize(first, second);
  checkHashes(firstRoot, secondRoot, ...proof);
  if (first > second) throw new ProofError("record.proof.shrank", { first, second });
  if (first === second) {
    if (proof.length || !same(firstRoot, secondRoot)) throw new ProofError("record.proof.forked", { size: first });
    return;
  }
  if (first === 0) throw new ProofError("record.proof.from_empty");
  let fn = first - 1;
  let sn = second - 1;
  const rest = [...proof];
  while (odd(fn)) {
    fn = half(fn);
    sn = half(sn);
  }
  let fr = fn === 0 ? firstRoot : rest.shift();
  if (!fr) throw new ProofError("record.proof.too_short");
  let sr = fr;
  for (const hash of rest) {
    if (sn === 0) throw new ProofError("record.proof.too_long");
    if (odd(fn) || fn === sn) {
      fr = await nodeHash(hash, fr);
      sr = await nodeHash(hash, sr);
      while (!odd(fn) && fn !== 0) {
        fn = half(fn);
        sn = half(sn);
      }
    } else {
      sr = await nodeHash(sr, hash);
    }
    fn = half(fn);
    sn = half(sn);
  }
  if (sn !== 0) throw new ProofError("record.proof.too_short");
  if (!same(fr, firstRoot) || !same(sr, secondRoot)) throw new ProofError("record.proof.inconsistent");
}

// --- tiles (C2SP tlog-tiles): a tile holds up to 256 hashes of complete subtrees of 256^level leaves

export function tilePath(level, number, width) {
  const parts = [String(number % 1000).padStart(3, "0")];
  for (let rest = Math.floor(number / 1000); rest > 0; rest = Math.floor(rest / 1000)) {
    parts.unshift(`x${String(rest % 1000).padStart(3, "0")}`);
  }
  return `tile/${level}/${parts.join("/")}${width < TILE_WIDTH ? `.p/${width}` : ""}`;
}

// Reads tiles of a tree of `size` leaves once each; `fetchTile(path)` gives a Uint8Array.
export function tileReader(size, fetchTile) {
  checkSize(size);
  const kept = new Map();
  return async (level, number) => {
    const key = `${level}/${number}`;
    if (!kept.has(key)) {
      const hashes = Math.floor(size / TILE_WIDTH ** level);
      const width = Math.min(TILE_WIDTH, hashes - number * TILE_WIDTH);
      kept.set(key, fetchTile(tilePath(level, number, width)));
    }
    return kept.get(key);
  };
}

// The root of the first `size` leaves (RFC 9162 section 2.1.1), from tiles.
export async function rootFromTiles(size, read) {
  checkSize(size);
  if (size === 0) return sha256(new Uint8Array(0));
  const pieces = [];
  let start = 0;
  for (let height = Math.floor(Math.log2(size)) + 1; height >= 0; height -= 1) {
    const width = 2 ** height;
    if (Math.floor(size / width) % 2 === 1) {
      pieces.push(await subtree(height, start / width, read));
      start += width;
    }
  }
  let result = pieces.pop();
  while (pieces.length) result = await nodeHash(pieces.pop(), result);
  return result;
}

async function subtree(height, number, read) {
  const level = Math.floor(height / 8);
  const count = 2 ** (height % 8);
  const first = number * count;
  const tile = await read(level, Math.floor(first / TILE_WIDTH));
  const offset = (first % TILE_WIDTH) * HASH_BYTES;
  if (tile.length < offset + count * HASH_BYTES) throw new ProofError("record.proof.short_tile");
  let row = [];
  for (let at = 0; at < count; at += 1) {
    row.push(tile.slice(offset + at * HASH_BYTES, offset + (at + 1) * HASH_BYTES));
  }
  while (row.length > 1) {
    const next = [];
    for (let at = 0; at < row.length; at += 2) next.push(await nodeHash(row[at], row[at + 1]));
    row = next;
  }
  return row[0];
}

// --- checkpoints (C2SP signed-note, tlog-checkpoint)

// {origin, size, root, text, signatures: [{name, id, signature}]}; signatures are not yet checked.
export function parseCheckpoint(note) {
  const refuse = () => new ProofError("record.proof.bad_checkpoint");
  if (typeof note !== "string" || note.length > MAX_NOTE_CHARS) throw refuse();
  const cut = note.lastIndexOf("\n\n");
  if (cut < 0 || !note.endsWith("\n") || cut + 2 === note.length) throw refuse();
  const text = note.slice(0, cut + 1);
  const [origin, size, root, ...more] = text.slice(0, -1).split("\n");
  if (!origin || !/^(0|[1-9][0-9]{0,15})$/.test(size || "") || root === undefined || more.includes("")) {
    throw refuse();
  }
  const digest = fromBase64(root);
  if (digest.length !== HASH_BYTES || !Number.isSafeInteger(Number(size))) throw refuse();
  const signatures = note.slice(cut + 2, -1).split("\n").map((line) => {
    const match = /^\u2014 ([^\s+]+) ([A-Za-z0-9+/]+=*)$/.exec(line);
    if (!match) throw refuse();
    const bytes = fromBase64(match[2]);
    if (bytes.length <= KEY_ID_BYTES) throw refuse();
    return { name: match[1], id: bytes.slice(0, KEY_ID_BYTES), signature: bytes.slice(KEY_ID_BYTES) };
  });
  return { origin, size: Number(size), root: digest, text, signatures };
}

export async function keyId(name, key) {
  const digest = await sha256(joined(new TextEncoder().encode(`${name}\n`), Uint8Array.of(ED25519), key));
  return digest.slice(0, KEY_ID_BYTES);
}

// "good", "bad", "unsigned" (this key did not sign) or "unsupported" (the browser has no Ed25519).
export async function checkSignature(checkpoint, keyBase64) {
  const key = fromBase64(keyBase64);
  const id = await keyId(checkpoint.origin, key);
  const mine = checkpoint.signatures.filter((one) => one.name === checkpoint.origin && same(one.id, id));
  if (!mine.length) return "unsigned";
  let imported;
  try {
    imported = await crypto.subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]);
  } catch (error) {
    if (error && error.name === "NotSupportedError") return "unsupported";
    return "bad";
  }
  const text = new TextEncoder().encode(checkpoint.text);
  for (const one of mine) {
    if (!(await crypto.subtle.verify({ name: "Ed25519" }, imported, one.signature, text))) return "bad";
  }
  return "good";
}

// --- what this browser saw before

// "first", "same", "grown", "shrank" or "forked" (another root at the same size); `seen` may be null.
export function compareHeads(seen, head) {
  if (!seen) return "first";
  if (head.size < seen.size) return "shrank";
  if (head.size > seen.size) return "grown";
  return seen.root === head.root ? "same" : "forked";
}

// Heads are kept by origin, so that a log that starts anew under a new name is not compared with the old one.
export function seenHead(storage, origin) {
  try {
    const value = JSON.parse(storage.getItem(`holdfast-log ${origin}`));
    const good = value && Number.isSafeInteger(value.size) && value.size >= 0 && /^[0-9a-f]{64}$/.test(value.root);
    return good ? { size: value.size, root: value.root, at: String(value.at) } : null;
  } catch {
    return null;
  }
}

export function rememberHead(storage, origin, head) {
  try {
    storage.setItem(`holdfast-log ${origin}`, JSON.stringify(head));
    return true;
  } catch {
    return false;
  }
}

// The tree with `head` begins with the tree that was seen: both roots are computed from the log's tiles.
export async function checkGrowth(seen, head, fetchTile) {
  const read = tileReader(head.size, fetchTile);
  if (toHex(await rootFromTiles(head.size, read)) !== head.root) {
    throw new ProofError("record.proof.tiles_differ", { size: head.size });
  }
  if (seen.size && toHex(await rootFromTiles(seen.size, read)) !== seen.root) {
    throw new ProofError("record.proof.rewritten", { first: seen.size, second: head.size });
  }
}
