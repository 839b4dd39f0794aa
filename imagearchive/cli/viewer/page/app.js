// The page: it asks the server for rows, and shows them. Names and contents of members are only
// ever set as text.

import {BLOCK, Grid} from "./grid.js";

const $ = (id) => document.getElementById(id);
const dialog = $("member");
const filters = ["text", "kind", "smallest", "largest"];
let overview = {};
let folder = "";
let className = "";
let current = null;
let searches = 0;

// The token is in a cookie now; it need not be in the history.
history.replaceState(null, "", location.pathname + location.hash);

// --- asking the server ---

async function ask(path, given = {}) {
  const response = await fetch(`${path}?${new URLSearchParams(given)}`);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function query() {
  const given = {};
  if (folder) given.folder = folder;
  if (className) given.class = className;
  for (const id of filters) {
    const value = $(id).value.trim();
    if (value && value !== "all") given[id] = value;
  }
  return given;
}

function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

const units = ["B", "KiB", "MiB", "GiB", "TiB"];

function formatSize(size) {
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit && size < 10 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

function formatBytes(size) {
  const exact = `${formatNumber(size)} ${size === 1 ? "byte" : "bytes"}`;
  return size < 1024 ? exact : `${formatSize(size)} (${exact})`;
}

const numbers = new Intl.NumberFormat("en-US");
const formatNumber = (number) => numbers.format(number);
const files = (number) => `${formatNumber(number)} ${number === 1 ? "file" : "files"}`;
const lastPart = (name) => name.slice(name.lastIndexOf("/") + 1) || name;

function extension(name) {
  const last = lastPart(name);
  const dot = last.lastIndexOf(".");
  return dot > 0 ? last.slice(dot + 1, dot + 7) : "file";
}

// Why the server does not show an image.
async function reason(url) {
  try {
    const response = await fetch(url);
    return response.ok ? "the browser cannot show it" : (await response.json()).error;
  } catch {
    return "the server does not answer";
  }
}

function brokenImage(image, url, holder) {
  image.addEventListener("error", async () => {
    const box = make("div", "broken", "broken");
    image.replaceWith(box);
    const message = await reason(url);
    box.textContent = message;
    box.title = message;
    holder.classList.add("damaged");
  });
}

// --- the grid ---

function fill(cell, row) {
  const picture = make("div", "picture");
  if (row.image) {
    const url = `thumbnail/${row.position}?v=${overview.version}`;
    const image = make("img");
    image.alt = "";
    image.decoding = "async";
    image.draggable = false;
    brokenImage(image, url, cell);
    image.addEventListener("load", () => {
      image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) < 64);
    });
    image.src = url;
    picture.append(image);
  } else {
    picture.append(make("span", "extension", extension(row.name)));
  }
  const name = make("span", "name", lastPart(row.name));
  cell.title = row.name;
  cell.setAttribute("aria-label", `${row.name}, ${formatSize(row.size)}`);
  cell.append(picture, name, make("span", "size", formatSize(row.size)));
}

const grid = new Grid($("grid"), {
  load: async (start, count) => (await ask("members", {...query(), start, count})).members,
  fill,
  open: (index, row) => openMember(row.position),
});

// `known` is the answer of the server, if it is here already.
async function search(known) {
  searches += 1;
  const mine = searches;
  const status = $("status");
  try {
    const answer = known || (await ask("members", {...query(), start: 0, count: BLOCK}));
    if (mine !== searches) return;
    status.classList.remove("wrong");
    const all = formatNumber(overview.count);
    status.textContent =
      answer.total === overview.count ? files(answer.total) : `${formatNumber(answer.total)} of ${all} files`;
    if (!answer.total) status.textContent = `No file matches; the archive has ${all}`;
    if (overview.left_out) status.textContent += `; ${formatNumber(overview.left_out)} left out of the archive`;
    grid.reset(answer.total, answer.members);
  } catch (error) {
    if (mine !== searches) return;
    status.textContent = error.message;
    status.classList.add("wrong");
  }
}

// --- folders ---

// A link that keeps the filters, but for its own.
function filterLink(filters, own, shown, count) {
  const link = make("a", "", shown);
  Object.assign(link.dataset, own);
  setAddress(link, filters);
  if (count !== undefined) link.append(make("span", "count", formatNumber(count)));
  return link;
}

function setAddress(link, filters) {
  const given = Object.entries({...filters, ...link.dataset}).filter((one) => one[1]);
  link.href = `#/?${new URLSearchParams(given)}`;
}

function moreThan(answer, shown) {
  const more = answer.count - shown.length;
  return more > 0 ? [make("li", "more", `${formatNumber(more)} more`)] : [];
}

function inList(link) {
  const item = make("li");
  item.append(link);
  return item;
}

async function showFolders(known) {
  const mine = folder;
  const answer = known || (await ask("folders", {folder}));
  if (mine !== folder) return;
  const path = $("path");
  const given = query();
  path.replaceChildren();
  const parts = folder ? folder.split("/") : [];
  ["All", ...parts].forEach((part, depth) => {
    const above = parts.slice(0, depth).join("/");
    const link = filterLink(given, {folder: above}, part.replaceAll("%25", "%"));
    if (depth === parts.length) link.setAttribute("aria-current", "true");
    path.append(inList(link));
  });
  const items = answer.folders.map((one) => {
    const name = folder ? `${folder}/${one.name}` : one.name;
    return inList(filterLink(given, {folder: name}, one.shown, one.count));
  });
  $("list").replaceChildren(...items, ...moreThan(answer, items));
  $("folders").classList.toggle("none", !answer.count && !folder);
}

// --- classes that folders do not tell ---

async function showClasses(given = {}) {
  const answer = await ask("classes", given);
  const list = $("class-list");
  $("classes").hidden = !answer.total;
  if (!answer.total) return;
  const total = formatNumber(answer.total);
  if (answer.read === null) {
    const button = make("button", "", `Read ${total} labels`);
    button.type = "button";
    button.addEventListener("click", () => showClasses({read: 1}));
    list.replaceChildren(button);
  } else if (answer.classes) {
    const filters = query();
    const items = answer.classes.map((one) =>
      inList(filterLink(filters, {class: one.name}, one.shown, one.count)));
    const all = inList(filterLink(filters, {class: ""}, "All"));
    list.replaceChildren(all, ...items, ...moreThan(answer, items));
    markClass();
  } else {
    list.replaceChildren(make("li", "more", `${formatNumber(answer.read)} of ${total} labels read`));
    setTimeout(() => showClasses(), 500);
  }
}

function markClass() {
  for (const link of document.querySelectorAll("#class-list a")) {
    if (link.dataset.class === className) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

// --- one member ---

const memberHash = (position) => `#/member/${position}?${new URLSearchParams(query())}`;

function openMember(position) {
  // The Back button closes a member; going from one to the next adds no entries.
  if (dialog.open) history.replaceState(null, "", memberHash(position));
  else history.pushState(null, "", memberHash(position));
  showMember(position);
}

async function showMember(position) {
  let member;
  try {
    member = await ask(`member/${position}`, query());
  } catch (error) {
    $("status").textContent = error.message;
    $("status").classList.add("wrong");
    return;
  }
  current = member;
  $("name").textContent = member.name;
  document.title = lastPart(member.name);
  $("place").textContent =
    member.index === null ? "" : `${formatNumber(member.index + 1)} of ${formatNumber(member.total)}`;
  $("previous").disabled = member.previous === null || member.index === null;
  $("next").disabled = member.next === null || member.index === null;
  $("download").href = `download/${position}`;
  showFacts(member);
  showFields(member);
  const content = $("content");
  content.replaceChildren();
  content.classList.remove("damaged");
  if (member.image) showPicture(content, position, member.name);
  if (!dialog.open) dialog.showModal();
  if (member.index !== null) grid.setActive(member.index);
  const answer = await ask(`content/${position}`).catch((error) => ({error: error.message}));
  if (current !== member) return;
  if (answer.width) addFact("Image", `${answer.width} × ${answer.height} pixels`);
  if (answer.text !== undefined) {
    content.replaceChildren();
    const text = make("pre", "", answer.text);
    text.tabIndex = 0;
    text.setAttribute("aria-label", "Content");
    content.append(text);
    if (answer.truncated) content.append(make("p", "more", "There is more; download the file to see all of it."));
  } else if (answer.error && !member.image) {
    content.replaceChildren(make("div", "broken", answer.error));
  }
}

function showPicture(content, position, name) {
  const url = `picture/${position}`;
  const image = make("img");
  image.alt = name;
  brokenImage(image, url, content);
  image.addEventListener("load", () => {
    const longer = Math.max(image.naturalWidth, image.naturalHeight);
    image.classList.toggle("small", longer < 256);
    if (longer < 256) image.style.width = `${image.naturalWidth * Math.max(1, Math.floor(384 / longer))}px`;
  });
  image.src = url;
  content.append(image);
}

function addFact(label, value, href) {
  const description = make("dd");
  if (href) {
    const link = make("a", "", value);
    link.href = href;
    description.append(link);
  } else {
    description.textContent = value;
  }
  $("facts").append(make("dt", "", label), description);
}

function showFacts(member) {
  $("facts").replaceChildren();
  if (member.folder) addFact("Folder", member.shown_folder, `#/?${new URLSearchParams({folder: member.folder})}`);
  if (member.class !== null) addFact("Class", member.class);
  if (member.labels.length) addFact(member.labels.length > 1 ? "Labels" : "Label", member.labels.join(", "));
  addFact("Size", formatBytes(member.size));
  if (member.stored_size !== member.size) addFact("Stored", formatBytes(member.stored_size));
  addFact("Archive", member.archive);
  addFact("Offset", formatNumber(member.offset));
  addFact("Position", formatNumber(member.position));
  if (member.time !== "-") addFact("Modified", `${member.time} UTC`);
  addFact("Mode", member.permissions);
  if (member.crc) addFact("Checksum", member.crc);
}

function showFields(member) {
  $("sample").hidden = member.fields.length < 2;
  $("fields").replaceChildren();
  $("drawn").replaceChildren();
  if (member.sample !== null && member.fields.length > 1) {
    const url = `drawn/${member.sample}`;
    const image = make("img");
    image.alt = "All fields of the sample, drawn";
    brokenImage(image, url, $("drawn"));
    image.src = url;
    $("drawn").append(image);
  }
  for (const one of member.fields) {
    const item = make("li");
    const link = make("a");
    link.href = memberHash(one.position);
    if (one.position === member.position) link.setAttribute("aria-current", "true");
    if (one.image) {
      const url = `thumbnail/${one.position}?v=${overview.version}`;
      const image = make("img");
      image.alt = "";
      brokenImage(image, url, item);
      image.src = url;
      link.append(image);
    }
    link.append(make("span", "", one.extension), make("span", "count", formatSize(one.size)));
    item.append(link);
    $("fields").append(item);
    const other = one.position !== member.position;
    if (other && !one.image && one.size < 2000) addPreview(item, one, member);
  }
}

async function addPreview(item, one, member) {
  const answer = await ask(`content/${one.position}`).catch(() => ({}));
  if (current === member && answer.text) item.append(make("pre", "preview", answer.text.slice(0, 300)));
}

function closeMember() {
  current = null;
  dialog.close();
  document.title = $("title").textContent;
  $("grid").focus();
}

// --- what the address says ---

function readAddress() {
  const [path, given] = location.hash.slice(1).split("?");
  const values = new URLSearchParams(given || "");
  const before = JSON.stringify(query());
  for (const id of filters) $(id).value = values.get(id) || (id === "kind" ? "all" : "");
  folder = values.get("folder") || "";
  className = values.get("class") || "";
  const changed = JSON.stringify(query()) !== before;
  if (changed) {
    showFolders();
    markClass();
    keepFiltersInLinks();
    search();
  }
  const member = /^\/member\/(\d+)$/.exec(path);
  if (member) showMember(member[1]);
  else if (dialog.open) closeMember();
}

// The address and the links to folders and classes keep the filters.
function keepFilters() {
  history.replaceState(null, "", `#/?${new URLSearchParams(query())}`);
  keepFiltersInLinks();
}

function keepFiltersInLinks() {
  const filters = query();
  for (const link of document.querySelectorAll("nav a")) setAddress(link, filters);
}

let waiting;
$("search").addEventListener("input", () => {
  keepFilters();
  clearTimeout(waiting);
  waiting = setTimeout(() => search(), 150);
});
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  $("grid").focus();
});
$("previous").addEventListener("click", () => openMember(current.previous));
$("next").addEventListener("click", () => openMember(current.next));
$("close").addEventListener("click", () => leave());
dialog.addEventListener("cancel", (event) => {
  event.preventDefault();
  leave();
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) leave();
});
dialog.addEventListener("keydown", (event) => {
  if (event.target.tagName === "PRE" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft" && !$("previous").disabled) openMember(current.previous);
  if (event.key === "ArrowRight" && !$("next").disabled) openMember(current.next);
});

function leave() {
  history.pushState(null, "", `#/?${new URLSearchParams(query())}`);
  closeMember();
}

document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !dialog.open && !/INPUT|SELECT/.test(document.activeElement.tagName)) {
    event.preventDefault();
    $("text").focus();
  }
});
addEventListener("popstate", readAddress);

function start() {
  // What the server would answer first came with the page.
  const first = JSON.parse($("first").textContent);
  overview = first.overview;
  const name = lastPart(overview.archives[0]);
  const more = overview.archives.length - 1;
  $("title").textContent = more ? `${name} and ${more} more` : name;
  $("title").title = overview.archives.join("\n");
  document.title = $("title").textContent;
  const narrow = matchMedia("(max-width: 700px)").matches;
  $("folders").open = !narrow;
  $("classes").open = !narrow;
  const before = JSON.stringify(query());
  readAddress();
  if (JSON.stringify(query()) === before) {
    search(first.members);
    // A long list must not delay the images.
    requestAnimationFrame(() => setTimeout(() => showFolders(folder ? undefined : first.folders)));
  }
  requestAnimationFrame(() => setTimeout(() => showClasses()));
}

start();
