/* The annotation page: shows an item, takes a vote, goes on. HTML comes from the server's renderer alone; all else is text. */

import { Ranking } from "./ranking.js";
import { allAside, ask, Away, drop, insist, keep, kept, newKey, own, putAside, sendLeftovers, sendVote, session, token } from "./sending.js";

const $ = (id) => document.getElementById(id);
const PLACES = { 2: ["Better", "Worse"], 3: ["Best", "2nd", "3rd"], 4: ["Best", "2nd", "3rd", "4th"] };
const LETTERS = "ABCD";
const ALIVE_S = 60;
const WAITING_S = 30;

let item = null; // what the server says of the item on the screen
let ranking = new Ranking(2);
let allBad = false;
let key = "";
let shownAt = 0;
let sending = false;
let waiter = 0;

// Small things

function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

function say(text) {
  $("live").textContent = "";
  // A live region speaks when its text changes.
  setTimeout(() => ($("live").textContent = text), 30);
}

function note(text, button = "", action = null, kind = "") {
  $("note").hidden = !text;
  $("note").className = `note ${kind}`;
  $("note-text").textContent = text;
  $("note-button").hidden = !button;
  $("note-button").textContent = button;
  $("note-button").onclick = action;
}

function notice(title, text) {
  item = null;
  for (const id of ["item", "dock", "back", "guide-toggle"]) $(id).hidden = true;
  $("notice").hidden = false;
  $("notice-title").textContent = title;
  $("notice-text").textContent = text;
  say(`${title} ${text}`);
}

const draftName = (about = item) => own(about.replaces ? `draft/r${about.replaces}` : `draft/a${about.assignment}`);

// What the server has

async function next({ focus = true, quiet = false } = {}) {
  clearTimeout(waiter);
  const { status, data } = await insist("/api/next", null, waiting);
  if (status === 403) return notice("This link does not work", data.message);
  if (status !== 200) return notice("Something went wrong", data.message ?? `The server says ${status}.`);
  if (!quiet) note("");
  showProgress(data);
  showGuidelines(data.guidelines);
  if (data.assignment === null) {
    const { team, wanted, mine } = data.progress;
    if (wanted === 0) notice("Nothing to compare yet", "The store holds no items. This page looks again by itself.");
    else if (team >= wanted) notice("All done. Thank you.", `${team} rankings are in, ${mine} of them from you.`);
    else notice("Nothing for you at the moment", "Others are at work on what is left. This page looks again by itself.");
    $("back").hidden = mine === 0;
    waiter = setTimeout(() => next({ focus: false }), WAITING_S * 1000);
    return;
  }
  show(data, focus);
}

function waiting(seconds, now) {
  note(`The server does not answer. Nothing is lost; the page tries again in ${Math.ceil(seconds)} s.`, "Try now", now, "warn");
}

async function earlier() {
  if (sending) return;
  const before = item?.replaces ? `?before=${item.replaces}` : "";
  const { status, data } = await insist(`/api/earlier${before}`, null, waiting);
  if (status !== 200) return note(data.message ?? "", "", null, "warn");
  if (!data.replaces) return note(item?.replaces ? "That was your first vote." : "You have not voted on anything yet.");
  show(data, true);
}

// What is on the screen

function show(data, focus) {
  item = data;
  ranking = new Ranking(data.answers.length);
  allBad = false;
  sending = false;
  shownAt = performance.now();
  // A key of this tab: after a reload the same vote has the same key, and another tab has another.
  const place = `posttrain/key/${draftName()}`;
  key = kept(place, session()) ?? newKey();
  keep(place, key, session());
  const said = kept(draftName()) ?? data.said ?? {};
  ranking.restore(said.places);
  allBad = said.all_bad === true;
  $("better").value = said.better ?? "";
  $("comment").value = said.comment ?? "";
  $("notice").hidden = true;
  for (const id of ["item", "dock"]) $(id).hidden = false;
  $("back").hidden = data.progress.mine === 0;
  showProgress(data);
  showGuidelines(data.guidelines);
  $("prompt").replaceChildren(...data.prompt.map((turn) => message(turn, true)));
  $("answers").replaceChildren(...data.answers.map(card));
  $("answers").dataset.num = data.answers.length;
  $("from").replaceChildren("Start from", ...data.answers.map(starter));
  $("bad-word").textContent = data.answers.length === 2 ? "Both bad" : "All bad";
  $("send-word").textContent = data.replaces ? "Correct" : "Send";
  openEditor(Boolean($("better").value || $("comment").value));
  makeTray();
  paint();
  if (data.replaces) {
    const what = { skip: "skipped", flag: "flagged" }[data.said.kind];
    note(`An earlier one${what ? `, which you ${what}` : ""}: your vote can be corrected.`, "Return to the current one", () => next());
  }
  if (focus) {
    scrollTo(0, 0);
    $("item-title").focus({ preventScroll: true });
    say(`${data.replaces ? "An earlier one" : "A new one"}: ${data.answers.length} answers.`);
  }
}

function message(turn, withRole) {
  const made = make("div", { class: `turn ${turn.role}` });
  if (withRole) made.append(make("p", { class: "role", textContent: turn.role }));
  if (turn.reasoning) {
    const inner = make("div", { class: "text", dir: "auto", innerHTML: turn.reasoning });
    made.append(make("details", {}, make("summary", { textContent: "Reasoning" }), inner));
  }
  made.append(make("div", { class: "text", dir: "auto", innerHTML: turn.html }));
  for (const call of turn.calls ?? []) {
    made.append(make("pre", { class: "call", tabIndex: 0, textContent: `${call.name}(${call.arguments})` }));
  }
  return made;
}

function card(turns, answer) {
  const letter = LETTERS[answer];
  const badge = make("span", { class: "letter", textContent: letter, id: `letter-${answer}`, title: `Drag ${letter} onto a place` });
  badge.dataset.answer = answer;
  const head = make("header", {}, badge, make("kbd", { textContent: answer + 1, "aria-hidden": "true" }), make("span", { class: "place", id: `place-${answer}` }), buttons(answer));
  const body = make("div", { class: "body" }, ...turns.map((turn) => message(turn, turns.length > 1)));
  const made = make("article", { class: "answer", tabIndex: 0, role: "group", id: `answer-${answer}`, "aria-label": `Answer ${letter}` }, head, body);
  made.dataset.answer = answer;
  return made;
}

/* Of two answers one is better; of more, each has a place. */
function buttons(answer) {
  const made = make("div", { class: "puts", role: "group", "aria-label": `Place of answer ${LETTERS[answer]}` });
  const words = ranking.n === 2 ? ["Better"] : PLACES[ranking.n];
  words.forEach((word, place) => {
    const button = make("button", { type: "button", textContent: word, "aria-label": `${LETTERS[answer]}: ${word}`, "aria-pressed": "false" });
    button.dataset.place = place;
    button.onclick = (event) => {
      if (sending) return;
      if (ranking.n === 2) ranking.pick(answer);
      else ranking.put(answer, ranking.places[answer] === place && !ranking.implied.has(answer) ? null : place);
      changed();
      // After a click, Enter sends; after a key press the focus stays where it was.
      if (event.detail) $(`answer-${answer}`).focus({ preventScroll: true });
    };
    made.append(button);
  });
  return made;
}

function starter(turns, answer) {
  const button = make("button", { type: "button", textContent: LETTERS[answer], "aria-label": `Start from answer ${LETTERS[answer]}` });
  button.onclick = () => {
    if (sending) return;
    const text = turns.map((turn) => turn.text).join("\n\n");
    if ($("better").value.trim() && !confirm("Replace what you have written?")) return;
    $("better").value = text;
    remember();
    $("better").focus();
  };
  return button;
}

function makeTray() {
  const places = PLACES[ranking.n].map((name, place) => [name, place]);
  if (ranking.n > 2) places.unshift(["No place", -1]);
  $("tray").replaceChildren(
    ...places.map(([name, place]) => {
      const slot = make("div", { class: `slot${place < 0 ? " none" : ""}` }, make("span", { class: "soft", textContent: name }), make("div", { class: "chips" }));
      slot.dataset.place = place;
      return slot;
    }),
  );
}

function paint() {
  const ordinal = (place) => PLACES[ranking.n][place];
  const dense = ranking.dense();
  const tied = (answer) => dense.filter((place) => place === dense[answer]).length > 1;
  for (let answer = 0; answer < ranking.n; answer++) {
    const place = ranking.places[answer];
    $(`place-${answer}`).textContent = place !== null && tied(answer) ? "tied" : "";
    const here = $(`answer-${answer}`);
    here.classList.toggle("best", dense[answer] === 0);
    here.classList.toggle("placed", place !== null);
    here.setAttribute("aria-label", `Answer ${LETTERS[answer]}, ${place === null ? "not placed" : `${ordinal(place)}${tied(answer) ? ", tied" : ""}`}`);
    for (const button of here.querySelectorAll(".puts button")) {
      const on = ranking.n === 2 ? place === 0 && !tied(answer) : place === Number(button.dataset.place);
      button.setAttribute("aria-pressed", String(on));
    }
  }
  for (const slot of $("tray").children) {
    const place = slot.dataset.place === "-1" ? null : Number(slot.dataset.place);
    const members = [...ranking.places.keys()].filter((answer) => ranking.places[answer] === place);
    slot.lastChild.replaceChildren(...members.map((answer) => {
      const chip = make("span", { class: `letter chip${ranking.implied.has(answer) ? " implied" : ""}`, textContent: LETTERS[answer] });
      chip.dataset.answer = answer;
      return chip;
    }));
  }
  $("bad").setAttribute("aria-pressed", String(allBad));
  $("tie").classList.toggle("on", ranking.tying);
  const order = ranking.groups().map((group) => group.map((answer) => LETTERS[answer]).join(" = ")).join(" > ");
  const open = ranking.tying ? " = …" : "";
  $("said").textContent = [order + open, allBad ? $("bad-word").textContent.toLowerCase() : ""].filter(Boolean).join(" · ");
  const ready = ranking.numPlaced >= 2 || allBad;
  $("send").setAttribute("aria-disabled", String(!ready || sending));
  return ready;
}

function inWords() {
  const words = ranking.groups().map((group, place) => `${group.map((answer) => LETTERS[answer]).join(" and ")} ${PLACES[ranking.n][place]}${group.length > 1 ? ", tied" : ""}`);
  if (allBad) words.push($("bad-word").textContent);
  return words.join("; ") || "Nothing placed";
}

function changed() {
  paint();
  remember();
  say(inWords() + (ranking.tying ? ". The next one ties." : ""));
}

function remember() {
  if (!item) return;
  keep(draftName(), { places: ranking.places, all_bad: allBad, ...written() });
}

const written = () => ({ better: $("better").value, comment: $("comment").value });

function showProgress({ progress, annotator }) {
  $("progress").hidden = false;
  $("mine").textContent = `${annotator ? `${annotator} ` : ""}${progress.mine}`;
  $("mine").title = `You have voted on ${progress.mine}`;
  $("team").textContent = `team ${progress.team} of ${progress.wanted}`;
  $("meter").setAttribute("aria-valuemax", progress.wanted);
  $("meter").setAttribute("aria-valuenow", progress.team);
  $("meter").firstChild.style.width = `${progress.wanted ? (100 * progress.team) / progress.wanted : 0}%`;
}

// Guidelines

let guidelines = null;

function showGuidelines(found) {
  $("guide-toggle").hidden = !found;
  if (!found && guidelines !== null) openGuide(false);
  if (!found) return void (guidelines = null);
  if (found.version === guidelines) return;
  const before = guidelines;
  guidelines = found.version;
  $("guide-version").textContent = `version ${found.version}`;
  $("guide-text").innerHTML = found.html;
  const unread = kept(own("guidelines")) !== found.version;
  openGuide(unread || (kept("posttrain/guide-open") ?? true) && matchMedia("(min-width: 1100px)").matches);
  keep(own("guidelines"), found.version);
  if (before !== null) say("The guidelines have changed.");
}

function openGuide(open) {
  $("guide").hidden = !open;
  $("guide-toggle").setAttribute("aria-expanded", String(open));
  document.body.classList.toggle("guided", open);
}

let beforeGuide = null;

function toggleGuide() {
  if (guidelines === null) return;
  const opens = $("guide").hidden;
  if (opens) beforeGuide = document.activeElement;
  openGuide(opens);
  keep("posttrain/guide-open", opens);
  if (opens) {
    $("guide-close").focus({ preventScroll: true });
    $("guide").scrollIntoView({ block: "nearest" });
  } else {
    // Back to where the reader was, so that Enter sends and does not open it again.
    const place = beforeGuide?.isConnected && beforeGuide !== document.body ? beforeGuide : $("item-title");
    place.focus({ preventScroll: true });
  }
}

// Votes

function openEditor(open) {
  $("editor").hidden = !open;
  $("edit").setAttribute("aria-expanded", String(open));
}

function toggleEditor() {
  openEditor($("editor").hidden);
  if (!$("editor").hidden) {
    $("editor").scrollIntoView({ block: "center" });
    $("better").focus({ preventScroll: true });
  }
}

async function send(kind = "ranking", reason = "") {
  if (!item || sending) return;
  if (kind === "ranking" && !paint()) return say("Place at least two answers, or say that they are bad."), wobble();
  setSending(true);
  const name = draftName();
  const nothing = ranking.numPlaced === 0;
  const vote = {
    kind,
    key,
    assignment: item.replaces ? null : item.assignment,
    replaces: item.replaces ?? 0,
    places: kind !== "ranking" ? [] : nothing ? Array(ranking.n).fill(0) : ranking.dense(),
    all_bad: kind === "ranking" && allBad,
    reason,
    better: kind === "ranking" ? $("better").value : "",
    comment: kind === "ranking" ? $("comment").value : "",
    seconds: Math.round((performance.now() - shownAt) / 100) / 10,
    guidelines,
  };
  const { status, data } = await sendVote(vote, (seconds, now) =>
    note(`The server does not answer. Your vote is kept here and sent again in ${Math.ceil(seconds)} s.`, "Send now", now, "warn"),
  );
  setSending(false);
  await settled(status, data, name);
}

/* What is on the screen is what is sent: while a vote is under way nothing of it changes. */
function setSending(on) {
  sending = on;
  document.body.classList.toggle("sending", on);
  for (const id of ["better", "comment"]) $(id).readOnly = on;
  if (on) $("send").setAttribute("aria-disabled", "true");
}

async function settled(status, data, name) {
  if (status === 403) return notice("This link does not work", data.message);
  if (status === 409 && data.error === "guidelines") {
    // The ranking stays; it only has to be sent again, under another key, with the new version read.
    drop(`posttrain/key/${name}`, session());
    await next({ quiet: true });
    openGuide(guidelines !== null);
    return note(data.message, "", null, "warn");
  }
  if (status !== 200 && status !== 409) {
    paint();
    return note(data.message ?? `The server says ${status}.`, "", null, "warn");
  }
  if (status === 409) putAside(key, written());
  drop(name);
  drop(`posttrain/key/${name}`, session());
  await next({ quiet: status === 409 });
  if (status === 409) refusal(data.message);
  else if (item) say(`Saved. The next one: ${item.answers.length} answers.`);
}

/* Says why, and where what was written is. */
function refusal(message) {
  const some = allAside().length > 0;
  note(some ? `${message} What you wrote is kept.` : message, some ? "Show what you wrote" : "", showAside, "warn");
  say(message);
}

function showAside() {
  const [found] = allAside();
  if (!found) return note("");
  const [name, words] = found;
  $("aside-text").value = [words.better, words.comment].filter((text) => text?.trim()).join("\n\n");
  $("aside-discard").onclick = () => {
    drop(name);
    $("aside-dialog").close();
    showAside();
  };
  if (!$("aside-dialog").open) $("aside-dialog").showModal();
}

/* Sends the votes of an earlier visit, then shows what is next, and what became of those that were not stored. */
async function start() {
  const complaints = [];
  await sendLeftovers(waiting, (vote, status, data) => {
    const name = draftName(vote);
    if (status === 200) return drop(name);
    if (data.error !== "answered") complaints.push(data.message ?? `The server says ${status}.`);
    if (status !== 409) return; // it stays in the outbox
    if (data.error === "guidelines" && vote.kind === "ranking") {
      // The ranking comes back with its item, to be sent again once the new version was read.
      if (!kept(name)) keep(name, { places: vote.places, all_bad: vote.all_bad, better: vote.better, comment: vote.comment });
    } else if (data.error !== "answered" || kept(name)) {
      // Without a draft, another tab has sent the same words.
      putAside(vote.key, vote);
      drop(name);
    }
  });
  await next();
  if (complaints.length || allAside().length) refusal(["A vote of an earlier visit was not stored.", ...new Set(complaints)].join(" "));
}

function wobble() {
  $("tray").classList.remove("ask");
  requestAnimationFrame(() => $("tray").classList.add("ask"));
  $("said").textContent = "Place at least two answers";
}

// Dragging: letters onto places, by mouse, pen or finger

document.addEventListener("pointerdown", (event) => {
  const letter = event.target.closest?.(".letter");
  if (!letter || !item || sending || event.button) return;
  event.preventDefault();
  const answer = Number(letter.dataset.answer);
  const ghost = make("span", { class: "letter ghost", textContent: LETTERS[answer] });
  const under = (at) => document.elementFromPoint(at.clientX, at.clientY)?.closest(".slot") ?? null;
  const mark = (slot) => [...$("tray").children].forEach((each) => each.classList.toggle("over", each === slot));
  const move = (at) => {
    if (!ghost.isConnected) document.body.append(ghost);
    document.body.classList.add("dragging");
    ghost.style.transform = `translate(${at.clientX - 17}px, ${at.clientY - 17}px)`;
    mark(under(at));
  };
  const end = (at) => {
    removeEventListener("pointermove", move);
    removeEventListener("pointerup", end);
    removeEventListener("pointercancel", end);
    const dropped = at.type === "pointerup" && ghost.isConnected;
    const slot = dropped ? under(at) : null;
    ghost.remove();
    mark(null);
    document.body.classList.remove("dragging");
    // A letter that is pulled out of its place and let go elsewhere has none.
    if (sending || (!slot && !(dropped && letter.classList.contains("chip")))) return;
    const place = slot ? Number(slot.dataset.place) : -1;
    ranking.put(answer, place < 0 ? null : place);
    changed();
  };
  addEventListener("pointermove", move);
  addEventListener("pointerup", end);
  addEventListener("pointercancel", end);
});

// Keys

const singleKeys = () => $("single-keys").checked;

function press(name) {
  const focused = document.activeElement?.closest?.(".answer");
  const answer = focused ? Number(focused.dataset.answer) : null;
  if (name === "?") return $("help-dialog").showModal(), true;
  if (name === "g") return toggleGuide(), true;
  if (name === "u") return earlier(), true;
  if (!item || sending) return false;
  if (/^[1-4]$/.test(name) && Number(name) <= ranking.n) return ranking.pick(Number(name) - 1), changed(), true;
  if (name === "=" || name === "0") return name === "=" ? ranking.tie() : ranking.tieAll(), changed(), true;
  if (name === "b") return (allBad = !allBad), changed(), true;
  if (name === "e") return toggleEditor(), true;
  if (name === "f") return $("flag-dialog").showModal(), true;
  if (name === "s") return send("skip"), true;
  if (name === "Backspace") return ranking.clear(), (allBad = false), changed(), true;
  if (name === "ArrowLeft" || name === "ArrowRight") return step(answer, name === "ArrowLeft" ? -1 : 1), true;
  if ((name === "ArrowUp" || name === "ArrowDown") && answer !== null) return ranking.move(answer, name === "ArrowUp" ? -1 : 1), changed(), true;
  if (name === "Enter") return send(), true;
  return false;
}

function step(answer, by) {
  const to = answer === null ? (by > 0 ? 0 : ranking.n - 1) : Math.min(Math.max(answer + by, 0), ranking.n - 1);
  $(`answer-${to}`).focus();
}

document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (document.querySelector("dialog[open]") || event.isComposing || event.repeat && event.key === "Enter") return;
  if ((event.ctrlKey || event.metaKey) && event.key === "Enter") return event.preventDefault(), void send();
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.matches("input, textarea, select")) return void (event.key === "Escape" && target.blur());
  if (target.matches("button, a, summary") && ["Enter", " "].includes(event.key)) return;
  if (event.key.length === 1 && !singleKeys()) return;
  if (press(event.key.length === 1 ? event.key.toLowerCase() : event.key)) event.preventDefault();
});

// Buttons

$("back").onclick = earlier;
$("guide-toggle").onclick = $("guide-close").onclick = toggleGuide;
$("help-open").onclick = () => $("help-dialog").showModal();
$("help-close").onclick = () => $("help-dialog").close();
$("tie").onclick = () => { if (sending) return; ranking.numPlaced < ranking.n ? ranking.tie() : ranking.tieAll(); changed(); };
$("bad").onclick = () => { if (sending) return; allBad = !allBad; changed(); };
$("edit").onclick = toggleEditor;
$("flag").onclick = () => sending || $("flag-dialog").showModal();
$("aside-close").onclick = () => $("aside-dialog").close();
$("flag-cancel").onclick = () => $("flag-dialog").close();
$("skip").onclick = () => send("skip");
$("send").onclick = () => send();
$("jump").onclick = (event) => { event.preventDefault(); $("answer-0")?.focus(); };
$("flag-form").onsubmit = () => {
  const words = $("flag-text").value.trim();
  const reason = new FormData($("flag-form")).get("reason") + (words ? `: ${words}` : "");
  $("flag-form").reset();
  send("flag", reason);
};
for (const id of ["better", "comment"]) $(id).oninput = remember;
$("single-keys").checked = kept("posttrain/single-keys") ?? true;
$("single-keys").onchange = () => keep("posttrain/single-keys", singleKeys());
addEventListener("hashchange", () => location.reload());

// A sign of life while somebody looks, so that the item stays theirs.
setInterval(async () => {
  const asked = item?.assignment;
  if (!asked || sending || document.hidden) return;
  try {
    const { status, data } = await ask("/api/alive", { assignment: asked });
    if (status !== 200 || item?.assignment !== asked || sending) return;
    showProgress({ ...data, annotator: item.annotator });
    if (data.yours) return;
    putAside(key, written());
    drop(draftName());
    await next({ quiet: true });
    refusal("The one before has been withdrawn, voted on in another tab, or given to somebody else.");
  } catch (error) {
    if (!(error instanceof Away)) throw error;
  }
}, ALIVE_S * 1000);

if (!token) notice("Your link is not complete", "Open the link that you were given in full, with all that stands behind the #. Without one, ask whoever runs this page.");
else start();
