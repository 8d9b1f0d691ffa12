/* Small drawings on buttons, made as nodes. */

const PATHS = {
  up: "M7 10v11M7 10l4.2-7.4c1.6 0 2.8 1.3 2.6 2.9L13.3 9H19a2 2 0 0 1 2 2.3l-1.2 7a2 2 0 0 1-2 1.7H7M3 10h4v11H3z",
  down: "M17 14V3M17 14l-4.2 7.4c-1.6 0-2.8-1.3-2.6-2.9l.5-3.5H5a2 2 0 0 1-2-2.3l1.2-7A2 2 0 0 1 6.2 4H17M21 14h-4V3h4z",
  again: "M20 11a8 8 0 1 0-2.3 6.3M20 4v7h-7",
  edit: "M4 20h4L19 9a2.8 2.8 0 0 0-4-4L4 16zM13.5 6.5l4 4",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  done: "M4 12.5l5 5L20 6.5",
  send: "M12 20V5M5 12l7-7 7 7",
  stop: "M7 7h10v10H7z",
  close: "M6 6l12 12M18 6L6 18",
  before: "M15 5l-7 7 7 7",
  after: "M9 5l7 7-7 7",
  end: "M12 4v15M5 12l7 7 7-7",
};

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const made = document.createElementNS(space, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: `icon icon-${name}`, "aria-hidden": "true" })) made.setAttribute(key, value);
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", PATHS[name]);
  made.append(path);
  return made;
}
