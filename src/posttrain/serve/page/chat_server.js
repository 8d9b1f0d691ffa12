/* The server: answers as they are written, the list of models, and votes, which wait in this browser until they are kept. */

import { all, drop, keep, kept, newKey, user } from "./chat_memory.js";

const WAITS_S = [1, 2, 4, 8, 15, 30];
const QUIET_S = 120; // without a sign from the server
const OUTBOX = "outbox/";

/* What went wrong, in words for the reader. `again`: whether the same may be tried again; `status`: 0 where no answer came. */
export class Failed extends Error {
  constructor(said, { status = 0, again = true, afterS = 0 } = {}) {
    super(said);
    Object.assign(this, { status, again, afterS });
  }
}

function headers(body) {
  const key = sessionStorage.getItem("posttrain/api-key");
  return { ...(key && { Authorization: `Bearer ${key}` }), ...(body && { "Content-Type": "application/json" }) };
}

async function ask(path, body, signal) {
  let answer;
  try {
    answer = await fetch(path, {
      method: body ? "POST" : "GET",
      headers: headers(body),
      body: body && JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
      referrerPolicy: "no-referrer",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed("The server does not answer. It may be starting again; your conversation is safe in this browser.");
  }
  if (!answer.ok) throw await failure(answer);
  return answer;
}

async function failure(answer) {
  const status = answer.status;
  const afterS = Number(answer.headers.get("Retry-After")) || 0;
  let said = "";
  try {
    said = (await answer.json()).error?.message ?? "";
  } catch {
    said = "";
  }
  if (status === 401) return new Failed("This server asks for an API key. Put yours in under Settings, then try again.", { status });
  if (status === 429) {
    const when = afterS ? ` Try again in ${Math.ceil(afterS)} s.` : " Try again in a moment.";
    return new Failed(`The server has its hands full.${when}`, { status, afterS });
  }
  if (status >= 500) return new Failed("The server could not answer just now. Try again in a moment.", { status, afterS });
  return new Failed(said || `The server refused the request (${status}).`, { status, again: status !== 404 });
}

export async function settings() {
  return (await ask("/page/settings")).json();
}

export async function models() {
  return (await (await ask("/v1/models")).json()).data.map((one) => one.id);
}

/* Ask for an answer. `onPiece({id, number, text, finish})` hears every piece; returns once the last has come. */
export async function complete(body, onPiece, signal) {
  const stop = new AbortController();
  signal.addEventListener("abort", () => stop.abort(), { once: true });
  if (signal.aborted) stop.abort();
  let timer = 0;
  let silent = false;
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => ((silent = true), stop.abort()), QUIET_S * 1000);
  };
  try {
    wait();
    const answer = await ask("/v1/chat/completions", { ...body, stream: true, user: user() }, stop.signal);
    let whole = false;
    for await (const data of events(answer.body, wait)) {
      if (data === "[DONE]") {
        whole = true;
        break;
      }
      for (const piece of pieces(data)) onPiece(piece);
    }
    if (!whole) throw new Failed("The answer broke off: the server went away in the middle of it.");
  } catch (error) {
    if (silent) throw new Failed("The server has fallen silent.");
    if (error.name === "AbortError" || error instanceof Failed) throw error;
    throw new Failed("The answer broke off: the connection to the server was lost.");
  } finally {
    clearTimeout(timer);
  }
}

function pieces(data) {
  let event;
  try {
    event = JSON.parse(data);
  } catch {
    throw new Failed("The server sent something that is no answer.");
  }
  if (event.error) throw new Failed(event.error.message || "The server could not go on.");
  return (event.choices ?? []).map((choice) => ({
    id: event.id,
    number: choice.index ?? 0,
    text: choice.delta?.content ?? "",
    finish: choice.finish_reason ?? "",
  }));
}

/* The data of server-sent events: lines that begin with "data:", an empty line behind each event. */
async function* events(body, onBytes) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      onBytes();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = done ? "" : lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Votes

let sending = false;
let tries = 0;
let onOutcome = () => {};

/* `hear(vote, said)`: said is "" once a vote is kept, else why it never will be. */
export function onVote(hear) {
  onOutcome = hear;
}

/* Cast a vote: it is in this browser before this returns, and at the server as soon as that takes it. */
export function cast(vote) {
  const whole = { key: newKey(), ...vote, user: user() };
  keep(OUTBOX + whole.key, { ...whole, at: Date.now() });
  tries = 0;
  sendVotes();
}

export async function sendVotes() {
  if (sending) return;
  sending = true;
  try {
    const waiting = all(OUTBOX).sort((a, b) => a.value.at - b.value.at);
    for (const { name } of waiting) await sendVote(name);
    tries = 0;
  } catch (error) {
    const wait = Math.max(WAITS_S[Math.min(tries, WAITS_S.length - 1)], error.afterS ?? 0) * (0.85 + 0.3 * Math.random());
    tries += 1;
    // A vote without a key waits for the key.
    if (error.status !== 401) setTimeout(sendVotes, wait * 1000);
  } finally {
    sending = false;
  }
  if (tries === 0 && all(OUTBOX).length) setTimeout(sendVotes, 0);
}

async function sendVote(name) {
  const vote = kept(name);
  if (!vote) return;
  const { at, ...body } = vote;
  try {
    await ask("/v1/feedback", body);
    drop(name);
    onOutcome(vote, "");
  } catch (error) {
    if (!(error instanceof Failed) || error.status === 0 || error.status === 401 || error.status === 429 || error.status >= 500) throw error;
    drop(name);
    onOutcome(vote, error.status === 404 ? "The server does not know this answer any more, so the vote could not be kept." : error.message);
  }
}

addEventListener("online", () => sendVotes());
