// The difference of two arms after more and more users: a band that holds at every look, and the plain interval.
const SPACE = "http://www.w3.org/2000/svg";

export function points(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(100 * value).toFixed(1)}`;
}

export function element(name, text = "", className = "") {
  const made = document.createElement(name);
  if (text !== "") made.textContent = text;
  if (className) made.className = className;
  return made;
}

function path(d, className) {
  const made = document.createElementNS(SPACE, "path");
  made.setAttribute("d", d);
  made.setAttribute("class", className);
  return made;
}

function drawing(label) {
  const made = document.createElementNS(SPACE, "svg");
  made.setAttribute("viewBox", "0 0 100 100");
  made.setAttribute("preserveAspectRatio", "none");
  if (label) {
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", label);
  } else {
    made.setAttribute("aria-hidden", "true");
  }
  return made;
}

// Round values from low to high, about four steps apart.
export function ticks(low, high) {
  const rough = Math.max(high - low, 1e-9) / 4;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 2.5, 5, 10].find((factor) => factor * unit >= rough * 0.999);
  const found = [];
  for (let n = Math.floor(low / step + 1e-9); n <= Math.ceil(high / step - 1e-9); n++) found.push(n * step);
  return found;
}

export function legend() {
  const made = element("div", "", "legend");
  for (const [name, ...parts] of [
    ["always valid: stop by it", ["M0 10H100V90H0Z", "band"], ["M0 10H100M0 90H100", "edge"]],
    ["estimate", ["M0 50H100", "value-line"]],
    ["plain 95 %: not to stop by", ["M0 50H100", "plain"]],
  ]) {
    const entry = element("span");
    const mark = drawing("");
    for (const part of parts) mark.append(path(...part));
    entry.append(mark, name);
    made.append(entry);
  }
  return made;
}

export function chart(row) {
  const looks = row.path;
  const plot = element("div", "", "plot");
  // The first looks know nothing and would squeeze the rest: what is far out is cut at the frame.
  const later = looks.slice(Math.floor(looks.length / 8));
  const most = Math.max(0.02, ...later.flatMap((one) => [Math.abs(one.low), Math.abs(one.high)]));
  const least = Math.min(0, ...later.map((one) => one.low));
  const beside = ticks(Math.max(least, -most), Math.max(0, ...later.map((one) => one.high)));
  const [low, high] = [beside[0], beside[beside.length - 1]];
  const [first, last] = [looks[0].users, looks[looks.length - 1].users];
  const x = (users) => (last > first ? (100 * (users - first)) / (last - first) : 100);
  const y = (value) => Math.min(Math.max(100 - (100 * (value - low)) / (high - low), 0), 100);
  const line = (key) => {
    const known = looks.filter((one) => one[key] !== null);
    return known.length ? `M${known.map((one) => `${x(one.users)} ${y(one[key])}`).join("L")}` : "M0 0";
  };
  const now = looks[looks.length - 1];
  const told = `${row.arm} less ${row.versus} after ${last} users: ${points(now.low)} to ${points(now.high)} points`;
  const svg = drawing(told);
  for (const tick of beside) svg.append(path(`M0 ${y(tick)}H100`, Math.abs(tick) < 1e-9 ? "zero" : "rule"));
  const back = [...looks].reverse().map((one) => `${x(one.users)} ${y(one.low)}`).join("L");
  svg.append(path(`${line("high")}L${back}Z`, "band"));
  for (const key of ["plain_low", "plain_high"]) svg.append(path(line(key), "plain"));
  for (const key of ["low", "high"]) svg.append(path(line(key), "edge"));
  svg.append(path(line("value"), "value-line"));
  plot.append(svg);
  for (const tick of beside) {
    const label = element("b", Math.abs(tick) < 1e-9 ? "0" : points(tick).replace(".0", ""));
    label.style.top = `${y(tick)}%`;
    plot.append(label);
  }
  for (const tick of ticks(first, last).filter((one) => one >= first && one <= last)) {
    const label = element("s", tick.toLocaleString("en"));
    label.style.left = `${x(tick)}%`;
    plot.append(label);
  }
  point(plot, svg, looks, x);
  return plot;
}

// What the figures were at the look under the pointer.
function point(plot, svg, looks, x) {
  const said = element("output");
  said.hidden = true;
  const at = path("M0 0", "at");
  svg.append(at);
  plot.append(said);
  plot.onpointermove = (event) => {
    const box = svg.getBoundingClientRect();
    const place = (100 * (event.clientX - box.left)) / box.width;
    const near = looks.reduce((a, b) => (Math.abs(x(b.users) - place) < Math.abs(x(a.users) - place) ? b : a));
    at.setAttribute("d", `M${x(near.users)} 0V100`);
    const plain = near.plain_low === null ? "–" : `${points(near.plain_low)} to ${points(near.plain_high)}`;
    said.textContent =
      `${near.users.toLocaleString("en")} users\nalways valid ${points(near.low)} to ${points(near.high)}\nplain ${plain}`;
    said.hidden = false;
    const [across, room] = [(x(near.users) / 100) * box.width, box.width - said.offsetWidth];
    const beside = across < box.width / 2 ? across + 8 : across - 8 - said.offsetWidth;
    said.style.left = `${Math.max(Math.min(beside, room), 0)}px`;
  };
  plot.onpointerleave = () => {
    said.hidden = true;
    at.setAttribute("d", "M0 0");
  };
}
