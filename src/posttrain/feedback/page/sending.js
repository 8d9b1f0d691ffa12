/* Questions to the server, and votes that are sent until they are acknowledged. */

const WAITS_S = [1, 2, 4, 8, 15, 30];

export const token = decodeURIComponent(location.hash.slice(1));

/* What is kept in the browser belongs to one link: neither two annotators nor two stores that one address served, one
   after the other, find each other's. The token itself is not kept. */
let mark = 2166136261;
for (const letter of token) mark = Math.imul(mark ^ letter.codePointAt(0), 16777619) >>> 0;
export const own = (name) => `posttrain/${mark.toString(36)}/${name}`;
const OUTBOX = own("outbox/");
const ASIDE = own("aside/");

export class Away extends Error {
  constructor(afterS = 0) {
    super("the server does not answer");
    this.afterS = afterS;
  }
}

/* {status, data} of an answer below 500; Away where there is none. */
export async function ask(path, body) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), 30000);
  try {
    const answer = await fetch(path, {
      method: body ? "POST" : "GET",
      headers: { Authorization: `Bearer ${token}`, ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
      signal: stop.signal,
      cache: "no-store",
      credentials: "omit",
      referrerPolicy: "no-referrer",
    });
    if (answer.status >= 500) throw new Away(Number(answer.headers.get("Retry-After")) || 0);
    return { status: answer.status, data: await answer.json() };
  } catch (error) {
    throw error instanceof Away ? error : new Away();
  } finally {
    clearTimeout(timer);
  }
}

/* As `ask`, until there is an answer; `onWait(seconds, now)` says for how long it waits, and `now()` ends the wait. */
export async function insist(path, body, onWait) {
  for (let tries = 0; ; tries++) {
    try {
      return await ask(path, body);
    } catch (error) {
      const wait = Math.max(WAITS_S[Math.min(tries, WAITS_S.length - 1)], error.afterS) * (0.85 + 0.3 * Math.random());
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, wait * 1000);
        const now = () => (clearTimeout(timer), resolve());
        addEventListener("online", now, { once: true });
        onWait(wait, now);
      });
    }
  }
}

/* A vote outlives the tab: it is kept in this browser until the server has it. */
export async function sendVote(vote, onWait) {
  keep(OUTBOX + vote.key, vote);
  const answer = await insist("/api/vote", vote, onWait);
  drop(OUTBOX + vote.key);
  return answer;
}

/* What an earlier tab could not send. A vote leaves the outbox when the server has it, or says that it never will; before
   that, `onAnswer(vote, status, data)` keeps what was written. */
export async function sendLeftovers(onWait, onAnswer) {
  for (const name of names(OUTBOX)) {
    const vote = kept(name);
    if (!vote) continue;
    const { status, data } = await insist("/api/vote", vote, onWait);
    onAnswer(vote, status, data);
    if (status === 200 || status === 409) drop(name);
  }
}

/* Words whose vote the server will not take; they stay until their writer discards them. */
export function putAside(id, words) {
  if (words.better?.trim() || words.comment?.trim()) keep(ASIDE + id, words);
}

/* [[name, words]] of all that was put aside. */
export const allAside = () => names(ASIDE).map((name) => [name, kept(name)]).filter(([, words]) => words);

function names(start) {
  const found = [];
  for (let index = 0; index < (storage()?.length ?? 0); index++) found.push(storage().key(index));
  return found.filter((name) => name.startsWith(start));
}

/* Browser storage, which may be switched off or full: then the page still works, without memory. */
export function kept(name, place = storage()) {
  try {
    return JSON.parse(place.getItem(name));
  } catch {
    return null;
  }
}

export function keep(name, value, place = storage()) {
  try {
    place.setItem(name, JSON.stringify(value));
  } catch { /* see above */ }
}

export function drop(name, place = storage()) {
  try {
    place.removeItem(name);
  } catch { /* see above */ }
}

export function session() {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}

function storage() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}

export function newKey() {
  // randomUUID is only there on secure pages, and a page of the local network is none.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
