/* The chat page: the conversation, and what is asked of the server. Texts become nodes in chat_markdown.js, never HTML. */

import { icon } from "./chat_icons.js";
import { drop, keep, kept, keptTurns, user } from "./chat_memory.js";
import { cast, complete, models, onVote, sendVotes, settings } from "./chat_server.js";
import { copied, grow, turnNode } from "./chat_turns.js";

const $ = (id) => document.getElementById(id);
const AUTO = "auto"; // whichever model the A/B test gives this user
const SAVES_S = 1;

let turns = keptTurns();
let served = { votes: false, default_model: "", models: [] };
let under = null; // what is being written: {stop, turn}
let editing = null;
let nodes = new Map(); // turn: {node, write}
let saved = 0;

// Small things

function announce(text) {
  $("live").textContent = "";
  setTimeout(() => ($("live").textContent = text), 30); // a live region speaks when its text changes
}

function note(text, label = "", action = null) {
  $("note").hidden = !text;
  $("note-text").textContent = text;
  $("note-button").hidden = !label;
  $("note-button").textContent = label;
  $("note-button").onclick = action;
}

function save() {
  saved = performance.now();
  keep("turns", turns);
}

const last = () => turns.at(-1);
const isPicking = () => Boolean(last()?.picking) && !under;
const atEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - 80;
const toEnd = () => scrollTo({ top: document.documentElement.scrollHeight });

// What is on the screen

function paint() {
  nodes = new Map();
  for (const turn of turns) {
    const writing = under?.turn === turn;
    nodes.set(turn, turnNode(turn, { busy: Boolean(under), writing, editing: editing === turn, last: turn === last(), votes: served.votes }, act));
  }
  $("turns").replaceChildren(...turns.map((turn) => nodes.get(turn).node));
  $("welcome").hidden = turns.length > 0;
  $("chat-title").hidden = turns.length === 0;
  $("new").disabled = turns.length === 0;
  $("stop").hidden = !under;
  $("send").hidden = Boolean(under);
  $("send").disabled = !$("say").value.trim() || isPicking() || !served.models.length;
  $("say").placeholder = isPicking() ? "Pick an answer first" : "Write a message";
  $("down").hidden = atEnd();
}

/* Pieces come faster than the screen is drawn. */
let drawn = 0;
function draw(version) {
  const turn = under?.turn;
  cancelAnimationFrame(drawn);
  drawn = requestAnimationFrame(() => {
    const follow = atEnd();
    for (const one of turn?.versions ?? [version]) nodes.get(turn)?.write(one);
    if (follow) toEnd();
    if (performance.now() - saved > SAVES_S * 1000) save();
  });
}

// Asking

function messagesBefore(turn) {
  const before = turns.slice(0, turns.indexOf(turn));
  const said = before.map((one) => ({ role: one.role, content: one.role === "user" ? one.text : one.versions[one.shown].text }));
  const system = $("system").value.trim();
  return [...(system ? [{ role: "system", content: system }] : []), ...said.filter((one) => one.content)];
}

function asked(turn, more) {
  const body = { model: $("model").value, messages: messagesBefore(turn), ...more };
  const number = (id) => ($(id).value.trim() === "" || !$(id).validity.valid ? null : Number($(id).value));
  if (number("temperature") !== null) body.temperature = number("temperature");
  if (number("max-tokens") !== null) body.max_tokens = number("max-tokens");
  if (served.votes && $("consent").checked) body.store = true;
  return body;
}

const fresh = () => ({ id: "", number: 0, text: "", finish: "", vote: "", kept: false, edited: false, failed: "", again: true });

/* Let the server write `versions` of a turn. */
async function write(turn, versions, more) {
  const stop = new AbortController();
  const body = asked(turn, more);
  for (const version of versions) version.kept = Boolean(body.store);
  under = { stop, turn };
  editing = null;
  note("");
  paint();
  toEnd();
  announce("The answer is being written.");
  const hear = (piece) => {
    const version = versions[piece.number] ?? versions[0];
    Object.assign(version, { id: piece.id || version.id, number: piece.number, text: version.text + piece.text });
    if (piece.finish) version.finish = piece.finish;
    draw(version);
  };
  try {
    await complete(body, hear, stop.signal);
  } catch (error) {
    const stopped = error.name === "AbortError";
    for (const version of versions.filter((one) => !one.finish)) {
      if (stopped) version.finish = "stopped";
      else Object.assign(version, { failed: error.message, again: error.again !== false });
    }
    if (error.status === 401) openSettings("api-key");
  }
  finish(turn, versions);
}

function finish(turn, versions) {
  if (under?.turn !== turn) return; // a new chat was begun meanwhile
  under = null;
  const follow = atEnd();
  // Of what was stopped before the first word nothing is left.
  turn.versions = turn.versions.filter((one) => one.text || one.failed || one.finish !== "stopped");
  turn.shown = Math.min(turn.shown, turn.versions.length - 1);
  if (turn.versions.length < 2 || versions.some((one) => one.failed || one.finish === "stopped")) turn.picking = false;
  // A new answer that did not come is neither better nor worse.
  const now = turn.versions[turn.shown];
  if (!versions.includes(now) || !now.text || now.failed) turn.than = null;
  if (!turn.versions.length) turns = turns.filter((one) => one !== turn);
  save();
  paint();
  if (follow) toEnd();
  if (turn.picking && nodes.get(turn).node.offsetHeight > innerHeight - 250) nodes.get(turn).node.scrollIntoView();
  const said = versions.map((one) => one.failed || one.text).filter(Boolean);
  announce(turn.picking ? `Two answers. One: ${said[0]} Two: ${said[1]} Which one is better?` : said.join(" "));
  if (!turn.picking && matchMedia("(pointer: fine)").matches && !$("settings").open) $("say").focus();
}

function answerNext() {
  const pair = $("compare").checked && served.votes;
  const versions = pair ? [fresh(), fresh()] : [fresh()];
  const turn = { role: "assistant", versions, shown: 0, picking: pair };
  turns.push(turn);
  const model = served.models.includes(AUTO) ? { model: AUTO } : {};
  return write(turn, versions, pair ? { ...model, n: 2, metadata: { compare: "true" } } : {});
}

function send() {
  const text = $("say").value;
  if (!text.trim() || under || isPicking() || !served.models.length) return;
  turns.push({ role: "user", text });
  $("say").value = "";
  drop("draft");
  grow($("say"));
  save();
  answerNext();
}

// What the buttons do

const ACTS = {
  edit(turn) {
    editing = turn;
    paint();
  },
  cancel() {
    editing = null;
    paint();
    $("say").focus();
  },
  save(turn, text) {
    editing = null;
    if (turn.role === "user") {
      turns = [...turns.slice(0, turns.indexOf(turn)), { role: "user", text }];
      save();
      return answerNext();
    }
    const version = turn.versions[turn.shown];
    if (text !== version.text) {
      if (version.id && version.kept && served.votes) cast({ kind: "edit", completion_id: version.id, answer: version.number, text });
      Object.assign(version, { text, edited: true, failed: "", finish: "stop" });
      save();
      announce("Saved.");
    }
    return paint();
  },
  up: (turn) => thumb(turn, "up"),
  down: (turn) => thumb(turn, "down"),
  again(turn) {
    const before = turn.versions[turn.shown];
    const version = fresh();
    turn.than = before.edited || before.failed || !before.id || !served.votes ? null : turn.shown;
    turn.versions.push(version);
    turn.shown = turn.versions.length - 1;
    if (before.id && served.votes) cast({ kind: "regenerated", completion_id: before.id, answer: before.number });
    write(turn, [version], before.id ? { metadata: { replaces: before.id } } : {});
  },
  retry(turn) {
    const failed = turn.versions[turn.shown];
    Object.assign(failed, fresh());
    turn.versions = turn.versions.filter((one) => one === failed || one.text);
    turn.shown = turn.versions.indexOf(failed);
    write(turn, [failed], {});
  },
  show(turn, number) {
    turn.shown = number;
    turn.than = null;
    save();
    paint();
  },
  than(turn, kind) {
    const [now, before] = [turn.versions[turn.shown], turn.versions[turn.than]];
    const [best, other] = kind === "better" ? [now, before] : [before, now];
    turn.than = null;
    if (kind !== "same") cast({ kind: "better", completion_id: best.id, answer: best.number, over: [[other.id, other.number]] });
    if (kind === "worse") turn.shown = turn.versions.indexOf(before);
    save();
    paint();
    announce("Thank you.");
    $("say").focus();
  },
  pick(turn, number) {
    turn.picking = false;
    turn.shown = Math.max(number, 0);
    const [best, other] = [turn.versions[turn.shown], turn.versions[1 - turn.shown]];
    if (number >= 0) cast({ kind: "better", completion_id: best.id, answer: best.number, over: [[other.id, other.number]] });
    save();
    paint();
    announce(number >= 0 ? `Answer ${number + 1} is kept.` : "Answer 1 is kept.");
    $("say").focus();
  },
};

function act(name, turn, more) {
  if (!under) ACTS[name](turn, more);
}

function thumb(turn, kind) {
  const version = turn.versions[turn.shown];
  if (version.vote === kind) return;
  version.vote = kind;
  cast({ kind, completion_id: version.id, answer: version.number });
  save();
  const focused = document.activeElement?.getAttribute("aria-label");
  paint();
  nodes.get(turn).node.querySelector(`.tool[aria-label="${focused}"]`)?.focus();
  announce(kind === "up" ? "Marked as good." : "Marked as bad.");
}

onVote((vote, said) => {
  if (!said) return;
  for (const turn of turns) {
    for (const version of turn.versions ?? []) if (version.id === vote.completion_id && version.vote === vote.kind) version.vote = "";
  }
  save();
  paint();
  if (vote.kind !== "regenerated") note(said, "Close", () => note(""));
});

// Settings

function openSettings(field = "system") {
  if (!$("settings").open) $("settings").showModal();
  $(field).focus();
}

function sayConsent() {
  $("consent-why").textContent = $("consent").checked
    ? "From your next message on this conversation is kept and may be learned from; e-mail addresses, phone numbers and the like are blotted out first."
    : "Nothing you write is kept. Switch “Learn from this chat” on to let the model be improved with it.";
}

function setUp() {
  for (const [id, name] of Object.entries({ send: "send", stop: "stop", down: "end", "close-settings": "close" })) $(id).append(icon(name));
  const given = kept("settings", {});
  for (const id of ["system", "temperature", "max-tokens"]) {
    $(id).value = given[id] ?? "";
    $(id).oninput = () => keep("settings", { ...kept("settings", {}), [id]: $(id).value });
  }
  for (const id of ["compare", "consent"]) {
    $(id).checked = given[id] === true;
    $(id).onchange = () => (keep("settings", { ...kept("settings", {}), [id]: $(id).checked }), sayConsent());
  }
  $("api-key").value = sessionStorage.getItem("posttrain/api-key") ?? "";
  $("api-key").oninput = () => sessionStorage.setItem("posttrain/api-key", $("api-key").value.trim());
  $("user").textContent = user();
  $("model").onchange = () => keep("settings", { ...kept("settings", {}), model: $("model").value });
  $("settings").onclose = () => {
    if (!served.models.length) meet();
    sendVotes();
  };
  sayConsent();
}

/* Learn what is served; until that works, again and again. */
async function meet(wait = 1) {
  try {
    const [told, names] = await Promise.all([settings(), models()]);
    served = { ...told, models: names };
  } catch (error) {
    if (error.status === 401) {
      note(error.message, "Settings", () => openSettings("api-key"));
      return;
    }
    note(error.message, "Try now", () => meet(wait));
    setTimeout(() => !served.models.length && meet(Math.min(wait * 2, 30)), wait * 1000);
    return;
  }
  note("");
  const wanted = [kept("settings", {}).model, AUTO, served.default_model].find((name) => served.models.includes(name));
  $("model").replaceChildren(...served.models.map((name) => new Option(name, name)));
  $("model").value = wanted ?? served.models[0];
  $("model").disabled = served.models.length < 2;
  for (const id of ["consent-label", "consent-why", "compare-label"]) $(id).hidden = !served.votes;
  paint();
  sendVotes();
}

// Keys and the rest

$("composer").onsubmit = (event) => (event.preventDefault(), send());
$("say").oninput = () => (grow($("say")), keep("draft", $("say").value), paintSend());
$("say").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !event.ctrlKey) (event.preventDefault(), send());
  const mine = turns.findLast((turn) => turn.role === "user");
  if (event.key === "ArrowUp" && !$("say").value && mine && !under) (event.preventDefault(), act("edit", mine));
};
function paintSend() {
  $("send").disabled = !$("say").value.trim() || isPicking() || !served.models.length;
}
$("stop").onclick = () => under?.stop.abort();
$("down").onclick = toEnd;
addEventListener("scroll", () => ($("down").hidden = atEnd()), { passive: true });
addEventListener("keydown", (event) => {
  const inField = event.target.closest?.("textarea, input, select, dialog");
  if (event.key === "Escape" && under && !$("settings").open) under.stop.abort();
  if (!inField && isPicking() && (event.key === "1" || event.key === "2")) act("pick", last(), Number(event.key) - 1);
});
$("open-settings").onclick = () => openSettings();
$("new").onclick = () => turns.length && $("sure").showModal();
$("sure").onclose = () => {
  if ($("sure").returnValue !== "yes") return;
  $("sure").returnValue = "";
  under?.stop.abort();
  under = null;
  editing = null;
  turns = [];
  drop("turns");
  paint();
  $("say").focus();
};
$("turns").addEventListener("click", async (event) => {
  const copy = event.target.closest(".copy-code");
  if (copy && (await copied(copy.closest(".code").querySelector("code").textContent))) {
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  }
});

/* An answer that a closed tab broke off is as it was left. */
for (const turn of turns) {
  for (const version of turn.versions ?? []) if (!version.finish && !version.failed) Object.assign(version, { failed: "The page was closed while this was being written.", again: true });
  if (turn.versions?.some((version) => version.failed)) turn.picking = false;
}
setUp();
$("say").value = kept("draft", "");
grow($("say"));
paint();
toEnd();
$("say").focus();
meet();
