// The state page of an A/B test. Whatever comes from the server is shown as text, never as markup.
import { chart, element, legend, points } from "./ab_chart.js";

const KEY = "posttrain/api-key";
const EVERY_MS = 15000;
const $ = (id) => document.getElementById(id);
const LEVELS = { better: "good", worse: "bad", futile: "warn", open: "", guard: "bad", broken: "bad" };
const SAYS =
  "Stop when the blue band leaves 0 behind: it holds at every look. The grey interval holds for one look at a number " +
  "of users that was fixed beforehand; who stops when it leaves 0 finds differences that are not there.";

const count = (number) => number.toLocaleString("en");
const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1)} %`);
const ends = (part) => (part.value === null || part.low === null || part.high === null ? "not known yet" : `${points(part.low)} to ${points(part.high)}`);
const pValue = (p) => (p >= 0.001 ? p.toFixed(3) : p.toExponential(1));

function table(columns, rows) {
  const made = element("table");
  const head = made.createTHead().insertRow();
  for (const name of columns) {
    const cell = element("th", name);
    cell.scope = "col";
    head.append(cell);
  }
  const body = made.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const cell of row) line.append(element("td", cell));
  }
  const wide = element("div", "", "wide");
  wide.append(made);
  const sheet = element("section", "", "sheet");
  sheet.append(wide);
  return sheet;
}

function cards(state) {
  const made = [];
  for (const row of state.by_arm) made.push([row.arm, percent(row.mean), `${count(row.users)} users, ${count(row.votes)} votes`]);
  for (const row of state.comparisons) {
    const value = row.always.value;
    made.push([`${row.arm} less ${row.versus}`, value === null ? "–" : points(value), value === null ? "not known yet" : `${ends(row.always)} points`]);
  }
  const ratio = state.sample_ratio;
  made.push(["sample ratio", ratio.is_mismatch ? "broken" : "kept", `p = ${pValue(ratio.p_value)}, ${ratio.of}`]);
  return made.map(([label, value, note]) => {
    const card = element("div");
    card.append(element("dt", label), element("dd", value, "value"), element("dd", note, "note"));
    return card;
  });
}

function figure(row) {
  const made = element("figure", "", "sheet");
  const caption = element("figcaption");
  caption.append(element("h3", `${row.arm} less ${row.versus}`), element("span", "points, by users counted"));
  made.append(caption);
  if (row.path.length > 1) made.append(legend(), chart(row), element("p", SAYS, "says"));
  else made.append(element("p", "Nobody has been counted yet.", "says"));
  return made;
}

function differences(state) {
  const rows = [];
  for (const row of state.comparisons) {
    const name = `${row.arm} less ${row.versus}`;
    const of = (part) => [part.value === null ? "–" : points(part.value), ends(part), pValue(part.p_value)];
    rows.push([`${name}: always valid`, ...of(row.always)]);
    rows.push([`${name}: plain, for one look only`, ...of(row.plain)]);
    for (const guard of row.guards) {
      const most = `at most ${points(guard.most)}`;
      rows.push([`${name}: ${guard.kind}, ${most} (${guard.verdict})`, guard.value === null ? "–" : points(guard.value), ends(guard), ""]);
    }
  }
  return table(["points", "difference", "interval", "p"], rows);
}

function pairs(state) {
  const rows = state.pairs.map((row) => [
    `${row.arm} over ${row.versus}`, ...["num_users", "wins", "ties", "losses"].map((key) => count(row[key])),
    percent(row.value), `${percent(row.low)} to ${percent(row.high)}`,
  ]);
  return table(["", "users", "wins", "ties", "losses", "win rate", "always valid"], rows);
}

function traffic(now, ratio, arms) {
  const rows = arms.map((arm) => {
    const [users, expected] = now ? [now.users[arm], now.expected[arm]] : [ratio.users[arm], ratio.expected[arm]];
    return [arm, now ? percent(now.shares[arm]) : "–", count(users), count(Math.round(expected)), now ? count(now.votes[arm]) : "–"];
  });
  return table(["", "share of new users", "users drawn", "expected", "votes heard"], rows);
}

function show(state) {
  $("headline").textContent = [...state.arms].reverse().join(" against ");
  $("said").textContent = state.recommendation.said;
  $("said").className = LEVELS[state.recommendation.verdict];
  $("warnings").replaceChildren(...state.warnings.map((text) => element("li", text)));
  $("cards").replaceChildren(...cards(state));
  $("charts").replaceChildren(...state.comparisons.map(figure));
  $("differences").replaceChildren(differences(state));
  $("pairs-part").hidden = !state.pairs.length;
  $("pairs").replaceChildren(pairs(state));
  $("traffic").replaceChildren(traffic(state.traffic, state.sample_ratio, state.arms));
  $("drift-part").hidden = !state.drift.length;
  $("drift").replaceChildren(
    table(["", "a user's votes", "users", "mean"], state.drift.map((row) => [row.arm, row.votes, count(row.users), percent(row.mean)])),
  );
  const counted = state.window_hours ? `by their votes in the ${state.window_hours} hours from the first, once these are over` : "by their first vote";
  $("asked").textContent =
    `A user counts once, ${counted}; ${count(state.pending)} more are within them. The least difference that matters: ` +
    `${(100 * state.mde).toFixed(1)} points; alpha ${state.alpha}. Seen at ${new Date().toLocaleTimeString()}.`;
  $("notice").hidden = $("key-form").hidden = true;
  $("figures").hidden = false;
}

function notice(title, text) {
  $("notice-title").textContent = title;
  $("notice-text").textContent = text;
  $("notice").hidden = false;
  $("figures").hidden = $("key-form").hidden = true;
}

function askKey(text) {
  $("key-text").textContent = text;
  $("notice").hidden = $("figures").hidden = true;
  $("key-form").hidden = false;
  $("key").focus();
}

async function load() {
  const key = sessionStorage.getItem(KEY);
  let answer;
  try {
    answer = await fetch("/ab/state", { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  } catch {
    if ($("figures").hidden) notice("The server is away", "The page asks again by itself.");
    else $("live").textContent = "The server is away; the figures are those of before.";
    return;
  }
  const body = await answer.json().catch(() => null);
  if (answer.ok && body) show(body);
  else if (answer.status === 401 || answer.status === 403) {
    askKey(key ? "This is not the owner's key." : "The figures of the test are for whoever runs the server.");
  } else notice("No figures", body?.error?.message ?? `The server answered ${answer.status}.`);
}

$("key-form").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  load();
};
$("again").onclick = async () => {
  await load();
  $("live").textContent = "Counted again.";
};
setInterval(() => {
  if (!document.hidden && $("key-form").hidden) load();
}, EVERY_MS);
load();
