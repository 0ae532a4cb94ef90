// The tagging page: send photos to the server a few at a time, and show the results. No framework.

import { ask, at, element, form, printable, Refusal } from "./common.js";

const AT_ONCE = 4; // requests
const TOP = 50; // number of best labels per photo to keep; the slider filters them
const IMAGE_NAME = /\.(jpe?g|jpe|jfif|png|webp|gif|bmp|tiff?|heic|heif|avif)$/i;
const HEAT = [255, 120, 0];

/** {file, path, card, waiting, record: {tags, seen} | {error} | null, thresholds: Map of word to threshold,
 *  pinned: {button, heatmap} | null} */
let photos = [];
let working = 0; // requests under way
let control = new AbortController(); // of this run
let requested = null; // {words, thresholds: Map of word to threshold} of this run; null until looked up
let limits = null;

// --- the server ----------------------------------------------------------------------------------------------------

/** @returns Map of word to threshold */
async function lookUp(words, signal) {
  limits ??= await ask("v1/limits", { signal });
  const found = await ask("v1/labels", words ? { method: "POST", body: form({ labels: words }), signal } : { signal });
  const quoted = (near) => near.map((word) => `“${word}”`).join(" or ");
  const unknown = Object.entries(found.unknown).map(
    ([word, near]) => `“${word}” is not known${near.length ? `; did you mean ${quoted(near)}?` : "."}`);
  if (unknown.length) throw new Refusal(unknown.slice(0, 5).join(" "));
  return new Map(found.labels.map(({ label, threshold }) => [label, threshold]));
}

/** @returns the record of one photo, its heat maps as bytes 0..255 */
async function tag(photo, signal) {
  const size = photo.file.size;
  if (size > limits.photo_bytes) {
    return { error: `too large: ${Math.ceil(size / 1e6)} MB, the limit is ${Math.floor(limits.photo_bytes / 1e6)} MB` };
  }
  const fields = { labels: requested.words, threshold: 0, top_k: TOP, heatmaps: Math.min(TOP, limits.heatmaps) };
  const body = form({ ...fields, files: photo.file });
  const [record] = await ask("v1/tag", { method: "POST", body, signal });
  for (const one of record.tags ?? []) {
    if (one.heatmap) one.heatmap = Uint8Array.from(one.heatmap.flat(), (value) => Math.round(255 * value)); // small
  }
  return record;
}

// --- runs ----------------------------------------------------------------------------------------------------------

/** Look up the words and tag all photos with them; if the words are unchanged, only photos without tags. */
async function run() {
  const words = at("labels").value.trim();
  const isNew = words !== requested?.words;
  stop();
  const { signal } = control;
  requested = null;
  showProblem("");
  report("looking up the words");
  try {
    requested = { words, thresholds: await lookUp(words, signal) };
  } catch (error) {
    if (error.name === "AbortError") return;
    showProblem(error.message);
    report();
    return;
  }
  for (const photo of photos.filter(({ record }) => isNew || !record?.tags)) {
    photo.record = null;
    photo.waiting = true;
    show(photo);
  }
  work();
}

/** Keep a few requests running until no photo is waiting. */
function work() {
  for (const photo of photos) {
    if (working >= AT_ONCE) break;
    if (photo.waiting) send(photo, control.signal);
  }
  report();
}

async function send(photo, signal) {
  photo.waiting = false;
  photo.thresholds = requested.thresholds;
  working += 1;
  let record = null;
  try {
    record = await tag(photo, signal);
  } catch (error) {
    if (error.name !== "AbortError") record = { error: error.message };
  }
  working -= 1;
  if (record && !signal.aborted) {
    photo.record = record;
    show(photo);
  }
  work();
}

function stop() {
  control.abort();
  control = new AbortController();
  for (const photo of photos) photo.waiting = false;
}

/** Show what is wrong with the words; empty for nothing. */
function showProblem(problem) {
  at("labels-problem").textContent = printable(problem);
  at("labels").setAttribute("aria-invalid", String(problem !== ""));
}

let spoken = 0;
/** Show the progress; not too often, because screen readers announce it. */
function report(doing = null) {
  const done = photos.filter(({ record }) => record);
  const failed = done.filter(({ record }) => record.error).length;
  const busy = working > 0;
  at("bar").hidden = photos.length === 0;
  at("hint").hidden = photos.length === 0 || limits?.heatmaps === 0;
  at("drop").classList.toggle("empty", photos.length === 0);
  at("progress").hidden = at("stop").hidden = !busy;
  at("progress").max = Math.max(1, photos.length);
  at("progress").value = done.length;
  at("csv").disabled = done.length === 0;
  if (busy && performance.now() - spoken < 700) return;
  spoken = performance.now();
  const errors = failed ? `, ${failed} could not be read` : "";
  const rest = photos.length - done.length;
  if (doing || busy) at("status").textContent = doing ?? `${done.length} of ${photos.length} photos`;
  else if (rest) at("status").textContent = `${done.length - failed} of ${photos.length} photos tagged${errors}`;
  else at("status").textContent = `${photos.length - failed} photo${photos.length - failed === 1 ? "" : "s"} tagged${errors}`;
}

// --- photos --------------------------------------------------------------------------------------------------------

/** @param found [{file, path}] */
function add(found) {
  const key = ({ path, file }) => `${path}/${file.size}/${file.lastModified}`;
  const known = new Set(photos.map(key));
  for (const { file, path } of found.filter((one) => !known.has(key(one)))) {
    const card = at("card").content.firstElementChild.cloneNode(true);
    const image = card.querySelector("img");
    image.alt = printable(path);
    image.onerror = () => image.parentElement.classList.add("blank");
    image.src = URL.createObjectURL(file);
    card.querySelector("h3").textContent = printable(path);
    const photo = { file, path, card, waiting: true, record: null, pinned: null };
    photos.push(photo);
    at("photos").append(card);
    show(photo);
  }
  if (requested && requested.words === at("labels").value.trim()) work();
  else run();
}

function clear() {
  stop();
  for (const { card } of photos) {
    URL.revokeObjectURL(card.querySelector("img").src);
    card.remove();
  }
  photos = [];
  report();
  at("files").focus();
}

/** Return the files of a picker; from a folder, only files that look like photos. */
function picked(input) {
  const found = [...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
  input.value = ""; // so that choosing the same files again is a change
  return found.filter(({ path }) => !path.includes("/") || isPhoto(path));
}

const isPhoto = (path) => IMAGE_NAME.test(path) && !path.split("/").some((part) => part.startsWith("."));

/** Return dropped files, including those in dropped folders. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, path: file.name }));
  return (await Promise.all(entries.map((entry) => walk(entry, "")))).flat();
}

async function walk(entry, inside) {
  const path = inside + entry.name;
  if (entry.isFile) {
    if (inside && !isPhoto(path)) return [];
    return [{ file: await new Promise((done, fail) => entry.file(done, fail)), path }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail)); // 100 at a time
    if (!some.length) return found;
    for (const one of some) found.push(...(await walk(one, `${path}/`)));
  }
}

// --- results --------------------------------------------------------------------------------------------------

function tagsOf({ record, thresholds }) {
  const floor = at("threshold").value / 100;
  return (record?.tags ?? []).filter(({ label, score }) => score >= (at("own").checked ? thresholds.get(label) : floor));
}

function show(photo) {
  const { card, record } = photo;
  const list = card.querySelector(".tags");
  const tags = tagsOf(photo);
  card.classList.toggle("failed", Boolean(record?.error));
  card.querySelector(".state").textContent =
    !record ? "…" : record.error ? `cannot be read: ${printable(record.error)}` : tags.length ? "" : "no tag reaches its minimum score";
  photo.pinned = null;
  look(photo, null);
  list.replaceChildren(...tags.map((one) => tagRow(photo, one)));
  if (tags.length > 8 && !list.classList.contains("all")) list.append(moreRow(list, tags.length - 8));
}

function tagRow(photo, { label, score, heatmap }) {
  const button = element("button", { type: "button" });
  const bar = element("span", { className: "bar" });
  bar.style.width = `calc(${score} * (100% - 3rem))`; // leaves room for the score
  button.append(bar, element("span", { textContent: printable(label) }), element("span", { className: "score", textContent: score.toFixed(2) }));
  if (heatmap) {
    button.setAttribute("aria-pressed", "false");
    button.onpointerenter = (event) => event.pointerType === "mouse" && look(photo, heatmap);
    button.onpointerleave = (event) => event.pointerType === "mouse" && look(photo, pinned(photo));
    button.onfocus = () => look(photo, heatmap);
    button.onblur = () => look(photo, pinned(photo));
    button.onclick = () => pin(photo, button, heatmap);
  }
  const row = element("li", {});
  row.append(button);
  return row;
}

function moreRow(list, number) {
  const button = element("button", { type: "button", textContent: `${number} more` });
  button.onclick = () => {
    list.classList.add("all");
    row.remove();
    list.children[8].querySelector("button").focus();
  };
  const row = element("li", { className: "more" });
  row.append(button);
  return row;
}

// --- heat maps -----------------------------------------------------------------------------------------------------

const pinned = (photo) => photo.pinned?.heatmap ?? null;

/** Pin the map with a click or tap; unpin it with another. */
function pin(photo, button, heatmap) {
  const again = photo.pinned?.button === button;
  photo.pinned?.button.setAttribute("aria-pressed", "false");
  photo.pinned = again ? null : { button, heatmap };
  button.setAttribute("aria-pressed", String(!again));
  look(photo, pinned(photo));
}

/** Show the photo in colour where the map is high, dark and grey elsewhere; unchanged without a map. */
function look(photo, heatmap) {
  const frame = photo.card.querySelector(".photo");
  const [image, canvas] = frame.children;
  frame.classList.toggle("looking", Boolean(heatmap));
  if (!heatmap || !image.naturalWidth) return;
  const scale = Math.min(1, 900 / Math.max(image.naturalWidth, image.naturalHeight));
  canvas.width = Math.max(1, Math.round(scale * image.naturalWidth));
  canvas.height = Math.max(1, Math.round(scale * image.naturalHeight));
  const draw = canvas.getContext("2d");
  draw.imageSmoothingQuality = "high";
  const [left, top, right, bottom] = photo.record.seen ?? [0, 0, 1, 1]; // what the model sees of the photo
  draw.drawImage(mask(heatmap), left * canvas.width, top * canvas.height, (right - left) * canvas.width, (bottom - top) * canvas.height);
  draw.globalCompositeOperation = "source-in";
  draw.drawImage(image, 0, 0, canvas.width, canvas.height);
  draw.globalCompositeOperation = "source-atop";
  draw.globalAlpha = 0.25;
  draw.fillStyle = `rgb(${HEAT.join(" ")})`;
  draw.fillRect(0, 0, canvas.width, canvas.height);
}

/** Return a small canvas whose opacity is the map. */
function mask(heatmap) {
  const side = Math.sqrt(heatmap.length);
  const small = element("canvas", { width: side, height: side });
  const draw = small.getContext("2d");
  const pixels = draw.createImageData(side, side);
  heatmap.forEach((value, index) => (pixels.data[4 * index + 3] = value));
  draw.putImageData(pixels, 0, 0);
  return small;
}

// --- CSV -----------------------------------------------------------------------------------------------------------

/** Quote a cell, with an apostrophe before text that a spreadsheet would take for a formula. */
function cell(text) {
  const safe = /^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** Return the shown tags, as ``zsl-tagger tag --format csv`` writes them. */
function csv() {
  const rows = [["path", "label", "score", "error"]];
  for (const photo of photos.filter(({ record }) => record)) {
    const tags = tagsOf(photo);
    for (const { label, score } of tags) rows.push([photo.path, label, score.toFixed(4), ""]);
    if (!tags.length) rows.push([photo.path, "", "", photo.record.error ?? ""]);
  }
  return rows.map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

function download() {
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  element("a", { href: url, download: "tags.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// --- events --------------------------------------------------------------------------------------------

at("ask").onsubmit = (event) => {
  event.preventDefault();
  run();
};
for (const picker of [at("files"), at("folder")]) picker.onchange = () => add(picked(picker));
at("csv").onclick = download;
at("clear").onclick = clear;
at("stop").onclick = () => {
  stop();
  report();
};
at("threshold").oninput = () => {
  at("own").checked = false;
  reshow();
};
at("own").onchange = reshow;
let due = 0;
function reshow() {
  at("ask").classList.toggle("own", at("own").checked);
  at("threshold-value").textContent = at("own").checked ? "" : (at("threshold").value / 100).toFixed(2);
  cancelAnimationFrame(due);
  due = requestAnimationFrame(() => photos.forEach(show));
}

document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) add(files.map((file) => ({ file, path: file.name })));
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
}
document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  try {
    add(await dropped(event.dataTransfer));
  } catch {
    showProblem("the dropped files cannot be read: choose them with a button");
  }
});

const local = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(location.hostname);
if (!local) at("promise").textContent = `Tag photos with any words. ${location.hostname} processes them and stores none.`;
at("example").textContent = `curl -F files=@photo.jpg -F labels=dog,beach ${new URL("v1/tag", location.href)}`;
report();
