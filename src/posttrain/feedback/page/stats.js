/* The owner's figures: what the server counted, in words and bars. All of it is inserted as text. */

import { insist, token } from "./sending.js";

const $ = (id) => document.getElementById(id);
const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);
const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits).replace(/^-(0\.0*)$/, "$1").replace("-", "−"));
const between = (low, high, as) => (low === null || low === undefined ? "no interval" : `${as(low)} to ${as(high)}`);
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function card(name, value, beside) {
  return make("div", {}, make("dt", { textContent: name }), make("dd", { className: "value", textContent: value }), make("dd", { className: "beside", textContent: beside }));
}

function table(heads, rows, empty) {
  if (!rows.length) return make("p", { className: "soft", textContent: empty });
  const head = make("tr", {}, ...heads.map(([name, kind]) => make("th", { textContent: name, scope: "col", className: kind ?? "" })));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell, index) => {
    const inner = cell instanceof Node ? cell : document.createTextNode(String(cell));
    return make("td", { className: heads[index][1] ?? "" }, inner);
  })));
  const frame = make("div", { className: "scroll", tabIndex: 0 });
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", `${heads[0][0]} table`);
  frame.append(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  return frame;
}

/* An interval on a common scale; `zero` is where a thin rule stands. */
function bar(value, low, high, from, to, zero, label) {
  const at = (x) => `${(100 * (Math.min(Math.max(x, from), to) - from)) / (to - from || 1)}%`;
  const made = make("div", { className: "track" });
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", label);
  if (zero !== null) made.style.setProperty("--zero", at(zero));
  if (value === null || value === undefined) return made;
  if (low !== null && low !== undefined) {
    const span = make("u");
    span.style.left = at(low);
    span.style.right = `calc(100% - ${at(high)})`;
    made.append(span);
  }
  const dot = make("b");
  dot.style.left = at(value);
  made.append(dot);
  return made;
}

function models(found) {
  const from = Math.min(0, ...found.models.map((model) => model.low ?? model.strength));
  const to = Math.max(0, ...found.models.map((model) => model.high ?? model.strength));
  return table(
    [["Model"], ["Strength (log odds)", "num"], ["95 % interval", "num"], ["", "chart"], ["Wins", "num"], ["Comparisons", "num"], ["Ranked pairs", "num"]],
    found.models.map((model) => [
      model.name, number(model.strength), between(model.low, model.high, number),
      bar(model.strength, model.low, model.high, from, to, 0, `${model.name}: ${number(model.strength)}, ${between(model.low, model.high, number)}`),
      percent(model.win_rate), model.comparisons, model.ranked_pairs,
    ]),
    "No two models have been compared yet.",
  );
}

function neighbours(found) {
  const words = { better: "better", worse: "worse", equal: "no difference that matters", open: "open" };
  return table(
    [["Pair"], ["Wins", "num"], ["Bounds", "num"], ["", "chart"], ["Items", "num"], ["Settled"], ["More items", "num"]],
    found.stopping.neighbours.map((pair) => [
      `${pair.first} over ${pair.second}`, percent(pair.win_rate), between(pair.low, pair.high, percent),
      bar(pair.win_rate, pair.low, pair.high, 0, 1, 0.5, `${percent(pair.win_rate)}, ${between(pair.low, pair.high, percent)}`),
      pair.items, words[pair.settled] ?? pair.settled, pair.more_items ?? "out of reach",
    ]),
    "There is nothing to settle yet.",
  );
}

function annotators(found) {
  const silent = (found.silent ?? []).map((name) => [name, 0, "–", bar(null, null, null, 0, 1, 0.5, "no votes"), "–", "–", "has not voted"]);
  return table(
    [["Name"], ["Ballots", "num"], ["Accuracy", "num"], ["", "chart"], ["Beside others", "num"], ["Median seconds", "num"], ["Verdict"]],
    [...found.annotators.map((row) => [
      row.name, row.ballots, percent(row.accuracy),
      bar(row.accuracy, row.low, row.high, 0, 1, 0.5, `${percent(row.accuracy)}, ${between(row.low, row.high, percent)}`),
      row.beside_others, number(row.median_seconds, 1), row.verdict,
    ]), ...silent],
    "Nobody has voted yet.",
  );
}

function show(found) {
  const { items, agreement, stopping } = found;
  $("headline").textContent = `${items.done.toLocaleString("en")} of ${plural(items.total, "item")} done`;
  $("lead").textContent = `${plural(items.ballots_missing, "ballot")} to go, of ${items.ballots_needed.toLocaleString("en")}.`;
  const pairwise = agreement.pairwise;
  const alpha = agreement.alpha;
  $("cards").replaceChildren(
    card("Ballots", found.counts.ballots_of_source.toLocaleString("en"), Object.entries(found.kinds).map(([kind, count]) => `${count} ${kind}`).join(", ")),
    card("Agreement of two people", percent(pairwise.value), pairwise.value === null ? "nobody shares a pair yet" : between(pairwise.low, pairwise.high, percent)),
    card("Krippendorff's alpha", number(alpha.value), alpha.value === null ? (pairwise.value === null ? "nobody shares a pair yet" : "all votes are alike") : between(alpha.low, alpha.high, number)),
    card("Ties", percent(found.comparisons ? found.ties / found.comparisons : null), `of ${plural(found.comparisons, "comparison")}`),
    card("Flagged", found.counts.flagged_ballots.toLocaleString("en"), "ballots on flagged items"),
  );
  const apart = found.model_groups.length > 1 ? ` ${found.model_groups.length} groups of models have not been compared with each other.` : "";
  $("models-note").textContent = `Bradley-Terry, 0 is the mean of the models.${apart}${found.bounded_by_prior ? " Some model won or lost everything: its strength is held by the prior alone." : ""}`;
  $("models").replaceChildren(models(found));
  $("stopping").textContent = stopping.may_stop
    ? "Yes: the order of neighbouring models is settled. The bounds hold however often one looks."
    : stopping.more_items === null || !stopping.neighbours.length
      ? "Not yet."
      : `Not yet: about ${plural(stopping.more_items, "more item")} if the rates stay as they are.`;
  $("neighbours").replaceChildren(neighbours(found));
  $("annotators").replaceChildren(annotators(found));
  $("notice").hidden = true;
  $("figures").hidden = false;
  $("live").textContent = $("headline").textContent;
}

function notice(title, text) {
  $("figures").hidden = true;
  $("notice").hidden = false;
  $("notice-title").textContent = title;
  $("notice-text").textContent = text;
}

async function load() {
  const { status, data } = await insist("/api/stats", null, (wait) => notice("The server does not answer", `The page tries again in ${Math.ceil(wait)} s.`));
  if (status === 200) show(data);
  else notice("This link does not work", status === 403 ? "The link to the figures is made anew each time the server starts: take the one that it printed last." : data.message);
}

$("again").onclick = load;
addEventListener("hashchange", () => location.reload());
if (token) load();
else notice("Your link is not complete", "Open the link that the server printed, with all that stands behind the #.");
