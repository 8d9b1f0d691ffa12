/* What this browser remembers: the conversation, the settings, and a number by which the server tells its users apart.
   Without storage (a private window, a full disk) the page works and forgets. */

const PLACE = "posttrain/chat/";
const without = new Map();

export function keep(name, value) {
  const text = JSON.stringify(value);
  try {
    localStorage.setItem(PLACE + name, text);
    without.delete(name);
  } catch {
    without.set(name, text);
  }
}

export function kept(name, fallback = null) {
  try {
    const found = without.get(name) ?? localStorage.getItem(PLACE + name);
    return found == null ? fallback : (JSON.parse(found) ?? fallback);
  } catch {
    return fallback;
  }
}

/* The conversation, where it is one: another page of this address may have written something else in its place. */
export function keptTurns() {
  const found = kept("turns", []);
  const said = (one) => typeof one?.text === "string";
  const sound = (turn) =>
    (turn?.role === "user" && said(turn)) ||
    (turn?.role === "assistant" && Array.isArray(turn.versions) && turn.versions.every(said) && said(turn.versions[turn.shown]) && (!turn.picking || turn.versions.length === 2));
  return Array.isArray(found) && found.every(sound) ? found : [];
}

export function drop(name) {
  without.delete(name);
  try {
    localStorage.removeItem(PLACE + name);
  } catch {
    // There is nothing then.
  }
}

/* [{name, value}] of everything whose name begins so. */
export function all(start) {
  const names = new Set([...without.keys()]);
  try {
    for (let number = 0; number < localStorage.length; number++) {
      const name = localStorage.key(number);
      if (name.startsWith(PLACE)) names.add(name.slice(PLACE.length));
    }
  } catch {
    // What is in `without` is all there is.
  }
  return [...names]
    .filter((name) => name.startsWith(start))
    .map((name) => ({ name, value: kept(name) }))
    .filter((one) => one.value !== null);
}

export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/* A random number of this browser: the same user gets the same arm of an A/B test, and can take back what they said. */
export function user() {
  const known = kept("user");
  if (typeof known === "string" && known) return known;
  const made = `page-${newKey()}`;
  keep("user", made);
  return made;
}
