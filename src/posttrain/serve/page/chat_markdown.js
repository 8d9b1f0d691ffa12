/* Markdown to DOM nodes. Every character of the text ends in a text node or in an attribute that is set here: there is
   no way from a text to a tag, a script or a request. Pictures are not loaded, only named. */

const MAX_DEPTH = 6; // quotes and lists inside each other
const MAX_SPANS = 8; // bold inside italic inside a link
// None of these goes back over what it has read: no text may hold the page up. [^] is any character, U+2028 too.
const FENCE = /^ {0,3}(`{3,}(?!`)|~{3,}(?!~))([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?![^ \t])/;
const RULE = /^ {0,3}(?:-[ \t]*){3,}$|^ {0,3}(?:\*[ \t]*){3,}$|^ {0,3}(?:_[ \t]*){3,}$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:[ \t]+([^]*))?$/;
const QUOTE = /^ {0,3}> ?([^]*)$/;
const ROW_LINE = /^ {0,3}[|:-]/;
const ROW_CELL = /^:?-+:?$/;
const URL_START = /https?:\/\//iy;
const MAX_URL = 2000;
const URL_REST = new RegExp(`[^\\s<>"'\`\\u0000-\\u001f]{1,${MAX_URL + 1}}`, "y");

function make(tag, name = "", text = "") {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text) made.textContent = text;
  return made;
}

/* The nodes of a text. */
export function rendered(text) {
  const holder = document.createDocumentFragment();
  blocks(text.replace(/\r\n?/g, "\n").split("\n"), holder, 0);
  return holder;
}

function blocks(lines, into, depth) {
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    if (!line.trim()) at += 1;
    else if (FENCE.test(line)) at = fence(lines, at, into);
    else if (HEADING.test(line)) at = heading(lines, at, into);
    else if (RULE.test(line)) (into.append(make("hr")), (at += 1));
    else if (depth < MAX_DEPTH && QUOTE.test(line)) at = quote(lines, at, into, depth);
    else if (depth < MAX_DEPTH && ITEM.test(line)) at = list(lines, at, into, depth);
    else if (isTable(lines, at)) at = table(lines, at, into);
    else at = paragraph(lines, at, into, depth);
  }
}

function starts(lines, at, depth) {
  const line = lines[at];
  if (!line.trim() || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || isTable(lines, at)) return true;
  return depth < MAX_DEPTH && (QUOTE.test(line) || ITEM.test(line));
}

function paragraph(lines, from, into, depth) {
  let at = from + 1;
  while (at < lines.length && !starts(lines, at, depth)) at += 1;
  const made = make("p");
  lines.slice(from, at).forEach((line, number) => {
    if (number) made.append(make("br"));
    inline(line.trim(), made, 0);
  });
  into.append(made);
  return at;
}

function heading(lines, at, into) {
  const [, marks] = HEADING.exec(lines[at]);
  const text = lines[at].trim().slice(marks.length).trim();
  let end = text.length;
  while (text[end - 1] === "#") end -= 1;
  // The page itself has the first heading.
  const made = make(`h${Math.min(marks.length + 1, 6)}`);
  inline(/[^ \t]/.test(text[end - 1] ?? " ") ? text : text.slice(0, end).trimEnd(), made, 0);
  into.append(made);
  return at + 1;
}

function fence(lines, from, into) {
  const [, marks, language] = FENCE.exec(lines[from]);
  const closes = new RegExp(`^ {0,3}${marks[0]}{${marks.length},}[ \\t]*$`);
  let at = from + 1;
  while (at < lines.length && !closes.test(lines[at])) at += 1;
  into.append(codeBlock(lines.slice(from + 1, at).join("\n"), language.trim().split(/\s/)[0]));
  return at + 1;
}

function codeBlock(text, language) {
  const block = make("div", "code");
  const head = make("div", "code-head");
  const copy = make("button", "quiet copy-code", "Copy");
  copy.type = "button";
  copy.setAttribute("aria-label", "Copy the code");
  head.append(make("span", "", language.slice(0, 30)), copy);
  const pre = make("pre");
  pre.tabIndex = 0;
  pre.append(make("code", "", text));
  block.append(head, pre);
  return block;
}

function quote(lines, from, into, depth) {
  let at = from;
  const inner = [];
  while (at < lines.length && QUOTE.test(lines[at])) inner.push(QUOTE.exec(lines[at++])[1]);
  const made = make("blockquote");
  blocks(inner, made, depth + 1);
  into.append(made);
  return at;
}

function list(lines, from, into, depth) {
  const ordered = /\d/.test(ITEM.exec(lines[from])[2]);
  const made = make(ordered ? "ol" : "ul");
  if (ordered) made.start = Number.parseInt(ITEM.exec(lines[from])[2], 10);
  let at = from;
  while (at < lines.length) {
    const found = ITEM.exec(lines[at]);
    if (!found || RULE.test(lines[at]) || /\d/.test(found[2]) !== ordered) break;
    const inner = [found[3] ?? ""];
    const width = found[1].length + found[2].length + 1;
    at += 1;
    while (at < lines.length && belongs(lines, at, width)) inner.push(unindented(lines[at++], width));
    while (inner.length && !inner.at(-1).trim()) inner.pop();
    const item = make("li");
    blocks(inner, item, depth + 1);
    // A list of single lines is set tight.
    const first = item.firstElementChild;
    if (first?.tagName === "P") {
      while (first.firstChild) first.before(first.firstChild); // there may be more than a call takes arguments
      first.remove();
    }
    made.append(item);
    while (at < lines.length && !lines[at].trim() && ITEM.test(lines[at + 1] ?? "")) at += 1;
  }
  into.append(made);
  return at;
}

/* Whether a line goes on with the item above: it is indented, or the rest of its paragraph. */
function belongs(lines, at, width) {
  const line = lines[at];
  const indent = line.length - line.trimStart().length;
  if (!line.trim()) return /^\s{2,}\S/.test(lines[at + 1] ?? "");
  if (indent >= Math.min(width, 2)) return true;
  return Boolean(lines[at - 1].trim()) && !starts(lines, at, 0);
}

function unindented(line, width) {
  let cut = 0;
  while (cut < width && (line[cut] === " " || line[cut] === "\t")) cut += 1;
  return line.slice(cut);
}

function isTable(lines, at) {
  return lines[at].includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && ROW_LINE.test(lines[at + 1]) &&
    cells(lines[at + 1]).every((cell) => ROW_CELL.test(cell)) && cells(lines[at]).length === cells(lines[at + 1]).length;
}

function table(lines, from, into) {
  const sides = cells(lines[from + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "middle" : "right") : ""));
  const made = make("table");
  const row = (line, tag, parent) => {
    const tr = make("tr");
    const found = cells(line).slice(0, sides.length);
    found.forEach((text, number) => {
      const cell = make(tag, sides[number]);
      inline(text, cell, 0);
      tr.append(cell);
    });
    // One cell for all that a row lacks: else short rows under a wide head were millions.
    if (found.length < sides.length) tr.append(Object.assign(make(tag), { colSpan: sides.length - found.length }));
    parent.append(tr);
  };
  const head = make("thead");
  row(lines[from], "th", head);
  const body = make("tbody");
  let at = from + 2;
  while (at < lines.length && lines[at].trim() && lines[at].includes("|")) row(lines[at++], "td", body);
  made.append(head, body);
  const scroll = make("div", "table");
  scroll.tabIndex = 0;
  scroll.append(made);
  into.append(scroll);
  return at;
}

function cells(line) {
  const found = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "").split(/(?<!\\)\|/);
  return found.map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/* Code, bold, italic, struck, links. One way through the text; a mark that is known to have no end is not sought again. */
function inline(text, into, depth) {
  let plain = "";
  let at = 0;
  const endless = new Set();
  const flush = () => {
    if (plain) into.append(plain);
    plain = "";
  };
  const put = (node, next) => (flush(), into.append(node), (at = next));
  while (at < text.length) {
    const letter = text[at];
    if (letter === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) (plain += text[at + 1]), (at += 2);
    else {
      const found = depth < MAX_SPANS && span(text, at, letter, depth, endless);
      if (found) put(found.node, found.next);
      else if (letter === "`") {
        const from = at;
        while (text[at] === "`") at += 1;
        plain += text.slice(from, at);
      } else (plain += letter), (at += 1);
    }
  }
  flush();
}

function span(text, at, letter, depth, endless) {
  if (letter === "`") return codeSpan(text, at, endless);
  if (letter === "*" || letter === "_" || letter === "~") return marked(text, at, letter, depth, endless);
  if (letter === "[" || (letter === "!" && text[at + 1] === "[")) return link(text, at, depth, endless);
  if (letter === "h" || letter === "H") return bareLink(text, at);
  return null;
}

function codeSpan(text, at, endless) {
  let marks = 1;
  while (text[at + marks] === "`") marks += 1;
  const mark = "`".repeat(marks);
  const end = endless.has(mark) ? -1 : text.indexOf(mark, at + marks);
  if (end < 0) return endless.add(mark), null;
  const inner = text.slice(at + marks, end);
  return { node: make("code", "", inner.length > 2 && inner.trim() ? inner.replace(/^ (.*) $/, "$1") : inner), next: end + marks };
}

function marked(text, at, letter, depth, endless) {
  const isDouble = text[at + 1] === letter;
  if (letter === "~" && !isDouble) return null;
  const mark = isDouble ? letter + letter : letter;
  const first = text[at + mark.length] ?? " ";
  if (/\s/.test(first) || endless.has(mark) || (letter === "_" && /\w/.test(text[at - 1] ?? ""))) return null;
  let end = text.indexOf(mark, at + mark.length);
  while (end >= 0 && !closesAt(text, end, mark, letter)) end = text.indexOf(mark, end + mark.length);
  if (end < 0) return endless.add(mark), null;
  if (isDouble && text[end + 2] === letter) end += 1;
  const node = make(letter === "~" ? "s" : isDouble ? "strong" : "em");
  inline(text.slice(at + mark.length, end), node, depth + 1);
  return { node, next: end + mark.length };
}

function closesAt(text, end, mark, letter) {
  if (/\s/.test(text[end - 1])) return false;
  if (mark.length === 1 && (text[end + 1] === letter || text[end - 1] === letter)) return false;
  return letter !== "_" || !/\w/.test(text[end + mark.length] ?? "");
}

function link(text, at, depth, endless) {
  const from = text[at] === "!" ? at + 2 : at + 1;
  // Found once for all the brackets in front of it.
  if (!endless.has("](") && !(endless.middle >= from)) endless.middle = text.indexOf("](", from);
  const middle = endless.has("](") ? -1 : endless.middle;
  if (middle < 0) return endless.add("]("), null;
  if (middle - from > 1000 || text.slice(from, middle).includes("[")) return null;
  let end = middle + 2;
  let open = 1;
  while (end < text.length && end - middle < 2100) {
    if (text[end] === "(") open += 1;
    else if (text[end] === ")" && --open === 0) break;
    end += 1;
  }
  if (text[end] !== ")") return null;
  const inner = text.slice(middle + 2, end).trim();
  const target = (/^(\S*)\s+["'(]/.exec(inner)?.[1] ?? inner).replace(/^<|>$/g, "");
  const node = anchor(target);
  if (!node) return null;
  inline(text.slice(from, middle) || target, node, MAX_SPANS - 1);
  return { node, next: end + 1 };
}

function bareLink(text, at) {
  if (/\w/.test(text[at - 1] ?? "")) return null;
  URL_START.lastIndex = at;
  if (!URL_START.test(text)) return null;
  URL_REST.lastIndex = at;
  let [address] = URL_REST.exec(text);
  if (address.length > MAX_URL) return null;
  let end = address.length;
  while (".,;:!?)]*_~".includes(address[end - 1])) end -= 1;
  address = address.slice(0, end);
  const node = anchor(address);
  if (!node) return null;
  node.textContent = address;
  return { node, next: at + address.length };
}

/* A link, of http and https alone; everything else stays text. */
function anchor(target) {
  if (!/^https?:\/\/[^\s\u0000-\u001f]+$/i.test(target)) return null;
  try {
    const address = new URL(target);
    if (address.protocol !== "https:" && address.protocol !== "http:") return null;
    const made = make("a");
    made.href = address.href;
    made.target = "_blank";
    made.rel = "noopener noreferrer nofollow";
    return made;
  } catch {
    return null;
  }
}
