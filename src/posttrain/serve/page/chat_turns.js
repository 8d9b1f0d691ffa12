/* Turns of the conversation as nodes. What a button does is told to `act(name, turn, more)`; this file decides nothing. */

import { icon } from "./chat_icons.js";
import { rendered } from "./chat_markdown.js";

const FINISHES = {
  length: "The answer was cut at the most tokens it may have.",
  stopped: "You stopped the answer here.",
  content_filter: "A rule of this server ended the answer here.",
};

export function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

function button(label, drawing, onclick, properties = {}) {
  return make("button", { type: "button", class: "tool", title: label, "aria-label": label, onclick, ...properties }, icon(drawing));
}

/* {node, write(version)}: the turn, and how the text of an answer that is being written is brought up to date. */
export function turnNode(turn, about, act) {
  if (turn.role === "user") return { node: userTurn(turn, about, act), write: () => {} };
  if (turn.picking) return pairTurn(turn, about, act);
  const version = turn.versions[turn.shown];
  const text = make("div", { class: "text", dir: "auto" });
  const node = make("article", { class: "turn assistant", "aria-label": "Answer" }, text);
  const write = (of) => of === version && fill(text, version, about.writing);
  if (about.editing) return { node: make("article", { class: "turn assistant" }, editor(version.text, answerWords(version), act, turn)), write };
  write(version);
  node.append(...under(version, turn, act));
  if (!about.writing) node.append(tools(turn, version, about, act));
  if (!about.writing && turn.than != null && about.last) node.append(betterThan(turn, act));
  return { node, write };
}

function fill(text, version, writing) {
  if (!version.text && writing) return text.replaceChildren(make("p", { class: "dots", "aria-label": "Writing" }, make("i"), make("i"), make("i")));
  text.replaceChildren(rendered(version.text));
  if (!version.text && !version.failed) text.replaceChildren(make("p", { class: "soft", textContent: "The answer is empty." }));
  return undefined;
}

function under(version, turn, act) {
  const found = [];
  if (version.edited) found.push(make("p", { class: "small soft", textContent: "In your words." }));
  if (FINISHES[version.finish]) found.push(make("p", { class: "small soft", textContent: FINISHES[version.finish] }));
  if (version.failed) {
    const again = make("button", { type: "button", textContent: "Try again", onclick: () => act("retry", turn) });
    found.push(make("div", { class: "failed", role: "alert" }, make("p", { textContent: version.failed }), ...(version.again ? [again] : [])));
  }
  return found;
}

// What the user wrote

function userTurn(turn, about, act) {
  const words = { label: "Change your message", save: "Send", why: "Everything after it is asked anew." };
  if (about.editing) return make("article", { class: "turn user editing" }, editor(turn.text, words, act, turn));
  // People write Markdown less often than they write asterisks: theirs is shown as they wrote it.
  const text = make("div", { class: "bubble", dir: "auto", textContent: turn.text });
  const node = make("article", { class: "turn user", "aria-label": "You" }, text);
  if (!about.busy) node.append(make("div", { class: "tools" }, button("Change this message", "edit", () => act("edit", turn)), copier(() => turn.text)));
  return node;
}

function answerWords(version) {
  const why = version.kept
    ? "Your words are kept as the better answer, and may be learned from."
    : "Shown here only: “Learn from this chat” was off when you asked, so your words are not kept.";
  return { label: "Write the answer as it should be", save: "Save", why };
}

function editor(value, words, act, turn) {
  const field = make("textarea", { value, rows: 3, dir: "auto", "aria-label": words.label });
  const save = () => field.value.trim() && act("save", turn, field.value);
  field.onkeydown = (event) => {
    if (event.key === "Escape") (event.stopPropagation(), act("cancel", turn));
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey || (turn.role === "user" && !event.shiftKey && !event.isComposing))) (event.preventDefault(), save());
  };
  field.oninput = () => grow(field);
  // Once it is on the page.
  queueMicrotask(() => {
    grow(field);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
    field.parentElement.scrollIntoView({ block: "nearest" });
  });
  const cancel = make("button", { type: "button", textContent: "Cancel", onclick: () => act("cancel", turn) });
  const done = make("button", { type: "button", class: "go", textContent: words.save, onclick: save });
  return make("div", { class: "editor" }, field, make("div", { class: "row" }, make("p", { class: "small soft", textContent: words.why }), cancel, done));
}

export function grow(field) {
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, innerHeight * 0.5)}px`;
}

// What stands under an answer

function tools(turn, version, about, act) {
  const holder = make("div", { class: "tools", role: "group", "aria-label": "About this answer" });
  if (version.text) holder.append(copier(() => version.text));
  if (about.votes && version.id && version.text && !version.edited && !version.failed) {
    for (const [kind, label] of [["up", "A good answer"], ["down", "A bad answer"]]) {
      const pressed = version.vote === kind;
      holder.append(button(label, kind, () => act(kind, turn), { "aria-pressed": String(pressed), disabled: about.busy }));
    }
  }
  if (!about.busy && version.text) holder.append(button("Put this answer right", "edit", () => act("edit", turn)));
  if (about.last && !about.busy && !version.failed) holder.append(button("Ask for another answer", "again", () => act("again", turn)));
  if (turn.versions.length > 1) holder.append(pager(turn, about, act));
  return holder;
}

function pager(turn, about, act) {
  const go = (step) => () => act("show", turn, turn.shown + step);
  const number = make("span", { textContent: `${turn.shown + 1} / ${turn.versions.length}` });
  const before = button("The answer before", "before", go(-1), { disabled: about.busy || turn.shown === 0 });
  const after = button("The answer after", "after", go(1), { disabled: about.busy || turn.shown === turn.versions.length - 1 });
  return make("span", { class: "pager" }, before, number, after);
}

function betterThan(turn, act) {
  const choice = (label, kind) => make("button", { type: "button", textContent: label, onclick: () => act("than", turn, kind) });
  return make("div", { class: "than", role: "group", "aria-label": "Compared with the answer before" },
    make("span", { class: "soft", textContent: "Is it better than the one before?" }), choice("Better", "better"), choice("Worse", "worse"), choice("The same", "same"));
}

function copier(text) {
  const made = button("Copy", "copy", async () => {
    if (!(await copied(text()))) return;
    made.replaceChildren(icon("done"));
    setTimeout(() => made.replaceChildren(icon("copy")), 1500);
  });
  return made;
}

/* Whether the text is in the clipboard. Away from localhost and https, browsers give a page no clipboard: the old way then. */
export async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = make("textarea", { value: text, class: "unseen", readOnly: true });
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

// Two answers side by side

function pairTurn(turn, about, act) {
  const texts = turn.versions.map(() => make("div", { class: "text", dir: "auto" }));
  const whole = !about.writing;
  const cards = turn.versions.map((version, number) => {
    const name = ["Left", "Right"][number];
    const pick = make("button", { type: "button", class: "pick", textContent: "This one is better", disabled: !whole, "aria-label": `The ${name.toLowerCase()} one is better`, onclick: () => act("pick", turn, number) });
    const head = make("header", {}, make("span", { textContent: `Answer ${number + 1}` }));
    return make("section", { class: "card", "aria-label": `${name} answer` }, head, texts[number], ...under(version, turn, act), pick);
  });
  turn.versions.forEach((version, number) => fill(texts[number], version, about.writing && !version.finish));
  const skip = make("button", { type: "button", class: "plain", textContent: "Neither, go on", onclick: () => act("pick", turn, -1) });
  const ask = make("p", { class: "ask" }, make("span", { textContent: whole ? "Which one is better?" : "Two answers are being written." }));
  if (whole) ask.append(skip);
  const node = make("article", { class: "turn assistant pair", "aria-label": "Two answers" }, ask, make("div", { class: "cards" }, ...cards));
  const write = (version) => {
    const number = turn.versions.indexOf(version);
    if (number >= 0) fill(texts[number], version, about.writing && !version.finish);
  };
  return { node, write };
}
