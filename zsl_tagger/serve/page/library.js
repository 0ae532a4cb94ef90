// The library page: search, mark photos by key or touch, teach, write sidecars after a preview. No framework.

import { ask as askServer, at, element, form, printable, Refusal, request } from "./common.js";

const STEP = 100; // photos loaded at a time
const MAX_SHOWN = 1000;
const SWIPE = 60; // minimum distance in pixels
const LISTED = 500; // maximum number of changes that a preview lists

const ROUTE = "v1/library";
const MARKS = { y: "yes", n: "no", u: null };

/** {photo, path, score, passes, mark: "yes" | "no" | null, copies, card} */
let photos = [];
let current = 0; // the photo that keys apply to
let shown = null; // the search shown: {query, tag, order, unmarked}
let counts = { yes: 0, no: 0 };
let counted = "";
let more = false;
let seen = null; // fingerprint of the preview
let undoable = 0;
let searches = 0; // responses to earlier searches are dropped

// --- the server ----------------------------------------------------------------------------------------------------

/** Move the token from the address bar to the storage of this tab. */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return;
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}

function withToken(options) {
  const token = sessionStorage.getItem("token");
  return token ? { ...options, headers: { Authorization: `Bearer ${token}` } } : options;
}

async function ask(path, fields = null, options = {}) {
  if (fields) options = { ...options, method: "POST", body: form(fields) };
  try {
    return await askServer(`${ROUTE}${path}`, withToken(options));
  } catch (error) {
    if (error.status === 401) at("door").hidden = false;
    throw error;
  }
}

/** @returns the object URL of a picture */
async function picture(photo, large) {
  const response = await request(`${ROUTE}/photos/${photo}${large ? "?large=true" : ""}`, withToken({}));
  return URL.createObjectURL(await response.blob());
}

// --- searching -----------------------------------------------------------------------------------------------------

/** Whether a query is a single word, which can be the tag too. */
const isOneWord = (query) => query !== "" && !/,|(^|\s)-|(^|\s)or(\s|$)/i.test(query);

function wanted() {
  const query = at("query").value.trim();
  const tag = at("tag").value.trim();
  return {
    query: query || tag,
    tag: tag || (isOneWord(query) ? query : ""),
    order: at("order").value,
    unmarked: at("unmarked").checked,
  };
}

const found = (what, top) => ask(`/photos?${new URLSearchParams({ ...what, top })}`);

/** Search, after saving marks, because the results include marks. */
async function search(focus = false) {
  const what = wanted();
  if (!what.query) return showProblem("type a word to search for");
  const number = ++searches;
  busy("searching");
  try {
    await save();
    const answer = await found(what, STEP);
    if (number !== searches) return;
    shown = what;
    counts = { yes: answer.yes, no: answer.no }; // updated here from now on, before marks are saved
    clear();
    showProblem("");
    take(answer);
    if (focus && photos.length) go(0);
  } catch (error) {
    if (number === searches) fail(error);
  }
}

async function showMore() {
  const number = searches;
  const answer = await found(shown, Math.min(MAX_SHOWN, photos.length + STEP));
  if (number === searches) take(answer);
}

function clear() {
  for (const { card } of photos) URL.revokeObjectURL(card.querySelector("img").src);
  at("photos").replaceChildren();
  photos = [];
  current = 0;
}

/** Add the photos of a response that are not shown yet. */
function take(answer) {
  const known = new Set(photos.map(({ photo }) => photo));
  for (const one of answer.photos.filter(({ photo }) => !known.has(photo))) {
    if (!one.passes && (photos.at(-1)?.passes ?? true)) {
      at("photos").append(element("li", { className: "divider", textContent: "Below the threshold" }));
    }
    const photo = { ...one, mark: one.mark === null ? null : one.mark ? "yes" : "no" };
    photo.card = makeCard(photo, photos.length);
    photos.push(photo);
    at("photos").append(photo.card);
    showMark(photo);
  }
  ({ counted } = answer);
  more = answer.more && photos.length < MAX_SHOWN;
  at("more").hidden = !more;
  at("keys").hidden = at("touch").hidden = photos.length === 0;
  at("starts").hidden = true;
  at("bar").hidden = false;
  if (photos.length) makeCurrent(Math.min(current, photos.length - 1));
  report();
}

// --- cards ---------------------------------------------------------------------------------------------------------

const nameOf = ({ path }) => printable(path.split(/[\\/]/).at(-1));

const loading = new IntersectionObserver(
  (entries) => {
    for (const { target } of entries.filter(({ isIntersecting }) => isIntersecting)) {
      loading.unobserve(target);
      load(photos.find(({ card }) => card === target));
    }
  },
  { rootMargin: "600px" },
);

async function load(photo) {
  if (!photo) return;
  const image = photo.card.querySelector("img");
  try {
    image.src = await picture(photo.photo, false);
  } catch (error) {
    image.parentElement.classList.add("blank");
    photo.card.classList.add("failed");
    photo.card.querySelector(".state").textContent = printable(error.message);
  }
}

function makeCard(photo, place) {
  const card = at("card").content.firstElementChild.cloneNode(true);
  const [open, no, yes] = card.querySelectorAll("button");
  card.querySelector("img").alt = nameOf(photo);
  card.querySelector("h3").textContent = nameOf(photo);
  card.title = printable(photo.path);
  const copies = photo.copies > 1 ? `, ${photo.copies} copies` : "";
  card.querySelector(".state").textContent = photo.score.toFixed(2) + copies;
  open.setAttribute("aria-label", `${nameOf(photo)}, large`);
  open.onclick = () => view(place);
  no.onclick = yes.onclick = (event) => {
    makeCurrent(place);
    const { mark } = event.currentTarget.dataset;
    setMark(place, photo.mark === mark ? null : mark);
  };
  card.onfocus = () => makeCurrent(place);
  loading.observe(card);
  return card;
}

function showMark(photo) {
  const { card, mark } = photo;
  card.classList.toggle("yes", mark === "yes");
  card.classList.toggle("no", mark === "no");
  press(card, mark);
  card.setAttribute("aria-label", `${nameOf(photo)}, score ${photo.score.toFixed(2)}, ${mark ?? "not marked"}`);
}

function press(inside, mark) {
  for (const button of inside.querySelectorAll("[data-mark]")) {
    button.setAttribute("aria-pressed", String(button.dataset.mark === mark));
  }
}

/** Make one photo reachable with the Tab key; the others are reached with arrow keys. */
function makeCurrent(place) {
  for (const [one, reached] of [[photos[current], -1], [photos[place], 0]]) {
    if (!one) continue;
    for (const part of [one.card, ...one.card.querySelectorAll("button")]) part.tabIndex = reached;
  }
  current = place;
}

// --- moving --------------------------------------------------------------------------------------------------------

function go(place) {
  makeCurrent(place);
  photos[place].card.focus();
  photos[place].card.scrollIntoView({ block: "nearest" });
}

/** Move by a number of photos; load more after the last one. */
async function move(by, then) {
  if (current + by >= photos.length && more) {
    try {
      await showMore();
    } catch (error) {
      return fail(error);
    }
  }
  const place = Math.max(0, Math.min(photos.length - 1, current + by));
  then(place);
}

function columns() {
  const top = (place) => photos[place]?.card.offsetTop;
  let count = 1;
  while (count < photos.length && top(count) === top(0)) count += 1;
  return count;
}

const STEPS = {
  j: () => 1, ArrowRight: () => 1, k: () => -1, ArrowLeft: () => -1, ArrowDown: columns, ArrowUp: () => -columns(),
  Home: () => -photos.length, End: () => photos.length - 1 - current,
};

/** Handle keys of the grid and of the large photo, which differ only in how they show a photo. */
function onKey(event, then) {
  if (event.ctrlKey || event.metaKey || event.altKey || !photos.length) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key in STEPS) move(STEPS[key](), then);
  else if (key in MARKS) answer(MARKS[key], then);
  else if (key === "t" && !at("viewer").open) teach();
  else if (key === "s" && !at("viewer").open) preview();
  else if (key === "Enter" && event.target === photos[current]?.card) view(current);
  else return;
  event.preventDefault();
}

/** Mark the current photo and go to the next one; stay if the mark is withdrawn. */
function answer(mark, then) {
  if (setMark(current, mark) && mark) move(1, then);
  else then(current);
}

// --- marks ---------------------------------------------------------------------------------------------------------

const unsaved = new Map(); // photo -> {mark, tag}
let saving = null;

function setMark(place, mark) {
  if (!shown?.tag) {
    showProblem("no tag to mark for: give its name under “Tag to review”");
    return false;
  }
  const photo = photos[place];
  if (photo.mark) counts[photo.mark] -= 1;
  if (mark) counts[mark] += 1;
  photo.mark = mark;
  showMark(photo);
  unsaved.set(photo.photo, { mark, tag: shown.tag });
  report(`${mark ?? "not marked"}: ${nameOf(photo)}`);
  save().catch(fail);
  return true;
}

/** Send all marks; marks set meanwhile are sent with the next request. */
function save() {
  saving ??= sendMarks().finally(() => (saving = null));
  return saving;
}

async function sendMarks() {
  while (unsaved.size) {
    const [{ tag }] = unsaved.values();
    const batch = [...unsaved].filter((one) => one[1].tag === tag).slice(0, STEP);
    for (const [photo] of batch) unsaved.delete(photo);
    const of = (mark) => batch.filter((one) => one[1].mark === mark).map(([photo]) => photo).join(" ");
    try {
      const marks = { tag, yes: of("yes"), no: of("no"), neither: of(null) };
      await ask("/marks", marks, { keepalive: true }); // even if the page is closed meanwhile
    } catch (error) {
      for (const [photo, one] of batch) if (!unsaved.has(photo)) unsaved.set(photo, one);
      const are = unsaved.size === 1 ? "is" : "are";
      throw new Refusal(`${times(unsaved.size, "mark")} ${are} not saved: ${error.message}`, error.status);
    }
  }
}

window.addEventListener("beforeunload", (event) => {
  if (unsaved.size) event.preventDefault();
});

// --- teaching and sidecars -----------------------------------------------------------------------------------------

const times = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;

/** Run a job for the tag, one at a time. */
async function work(doing, job) {
  if (!shown?.tag) return showProblem("no tag: give its name under “Tag to review”");
  if (document.body.ariaBusy === "true") return;
  busy(doing);
  try {
    await save();
    await job(shown.tag);
    showProblem("");
  } catch (error) {
    fail(error);
  }
  report();
}

function teach() {
  const inside = at("photos").contains(document.activeElement);
  return work("teaching", async (tag) => {
    const lesson = await ask("/teach", { tag });
    const gone = lesson.left_out.length;
    inform(
      `“${lesson.name}” was taught with ${lesson.yes} yes and ${lesson.no} no. ` +
        `Found ${lesson.found} of ${lesson.yes} of its own examples when left out one at a time. ` +
        `${lesson.counted} would get it.` +
        (lesson.refined ? ` It refines the word “${lesson.refined}”.` : "") +
        (gone ? ` Left out because they were deleted or changed: ${gone}, such as ${lesson.left_out[0]}.` : ""),
    );
    at("query").value = at("tag").value = lesson.name;
    await search(inside);
    await refresh();
  });
}

function preview() {
  return work("reading the sidecars", async (tag) => {
    const planned = await ask("/preview", { tag });
    const left = Object.entries(planned.problems);
    seen = planned.changes.length ? { tag, fingerprint: planned.fingerprint } : null;
    at("review-title").textContent = `Sidecars of “${printable(tag)}”`;
    at("review-summary").textContent =
      `${times(planned.changes.length, "XMP sidecar")} would change, ${planned.unchanged} would not` +
      (left.length ? `, ${times(left.length, "photo")} left out.` : ".");
    at("changes").replaceChildren(
      ...left.slice(0, LISTED).map(([photo, why]) => element("li", { textContent: `${photo}: ${why}`, className: "lost" })),
      ...planned.changes.slice(0, LISTED).map(changeRow),
    );
    const hidden = planned.changes.length - LISTED;
    if (hidden > 0) at("changes").append(element("li", { textContent: `and ${times(hidden, "more sidecar")}` }));
    at("write").hidden = !seen;
    at("write").textContent = `Write ${times(planned.changes.length, "sidecar")}`;
    at("cancel").textContent = seen ? "Cancel" : "Close";
    at("review").showModal();
    (seen ? at("write") : at("cancel")).focus();
  });
}

function changeRow({ path, became, gained, lost }) {
  const row = element("li", {});
  row.append(element("b", { textContent: path }), became === "changed" ? "" : ` (${became})`);
  for (const word of gained) row.append(" ", element("span", { className: "gained", textContent: `+ ${printable(word)}` }));
  for (const word of lost) row.append(" ", element("span", { className: "lost", textContent: `− ${printable(word)}` }));
  return row;
}

function write() {
  at("review").close();
  return work("writing", async () => {
    written(await ask("/write", { tag: seen.tag, preview: seen.fingerprint }), "written");
  });
}

function undo() {
  return work("undoing", async () => written(await ask("/undo", { sidecars: undoable }), "restored"));
}

function written({ changes, problems, undoable: left }, how) {
  const wrong = Object.entries(problems);
  setUndoable(left);
  inform(
    `${times(changes.length, "sidecar")} ${how}.` +
      (wrong.length ? ` ${times(wrong.length, "photo")} left out; ${wrong[0][0]}: ${wrong[0][1]}` : ""),
  );
}

function setUndoable(count) {
  undoable = count;
  at("undo").hidden = !count;
  at("undo").textContent = `Undo ${times(count, "sidecar")}`;
}

// --- one photo, large ----------------------------------------------------------------------------------------------

let viewed = null;

async function view(place) {
  makeCurrent(place);
  const photo = photos[place];
  if (!at("viewer").open) at("viewer").showModal();
  const image = at("large");
  viewed = photo;
  image.style.transform = "";
  image.alt = nameOf(photo);
  image.src = photo.card.querySelector("img").src; // until the large one is loaded
  at("viewer-name").textContent = nameOf(photo);
  at("viewer-place").textContent = `${photo.score.toFixed(2)} · ${place + 1} of ${photos.length}${more ? "+" : ""} · ${shown.tag}`;
  press(at("viewer"), photo.mark);
  try {
    const address = await picture(photo.photo, true);
    if (viewed === photo && at("viewer").open) {
      image.onload = () => URL.revokeObjectURL(address);
      image.src = address;
    } else URL.revokeObjectURL(address);
  } catch (error) {
    if (viewed === photo) at("viewer-place").textContent = printable(error.message);
  }
}

at("viewer").onkeydown = (event) => onKey(event, view);
at("viewer").onclose = () => go(photos.indexOf(viewed)); // the browser has moved the focus to where it was opened
at("close").onclick = () => at("viewer").close();
for (const button of at("viewer").querySelectorAll("[data-mark]")) {
  button.onclick = () => answer(photos[current].mark === button.dataset.mark ? null : button.dataset.mark, view);
}
for (const button of at("viewer").querySelectorAll("[data-go]")) button.onclick = () => move(Number(button.dataset.go), view);

/** A swipe to the right marks yes, to the left no. */
const stage = at("viewer").querySelector(".stage");
let start = null;
stage.onpointerdown = (event) => {
  start = event.isPrimary && event.pointerType !== "mouse" ? event.clientX : null;
};
stage.onpointermove = (event) => {
  if (start !== null) at("large").style.transform = `translateX(${event.clientX - start}px)`;
};
stage.onpointercancel = () => {
  start = null;
  at("large").style.transform = "";
};
stage.onpointerup = (event) => {
  const by = start === null ? 0 : event.clientX - start;
  start = null;
  at("large").style.transform = "";
  if (Math.abs(by) >= SWIPE) answer(by > 0 ? "yes" : "no", view);
};

// --- messages --------------------------------------------------------------------------------------------------

function showProblem(problem) {
  document.body.ariaBusy = "false";
  at("problem").textContent = printable(problem);
}

function fail(error) {
  showProblem(error.message);
  report();
}

const inform = (text) => (at("news").textContent = printable(text));

function busy(doing) {
  document.body.ariaBusy = "true";
  at("bar").hidden = false;
  at("status").textContent = `${doing} …`;
}

/** Show the state of the search and of the tag. */
function report(first = "") {
  document.body.ariaBusy = "false";
  const parts = counted ? [`${counted} reach the threshold`] : [];
  if (shown?.tag) parts.push(`“${printable(shown.tag)}”: ${counts.yes} yes, ${counts.no} no`);
  if (shown && !photos.length) parts.unshift("no photos");
  at("status").textContent = parts.join(" · ");
  at("teach").disabled = at("sidecars").disabled = !shown?.tag;
  if (first) inform(first);
}

// --- events --------------------------------------------------------------------------------------------

at("find").onsubmit = (event) => {
  event.preventDefault();
  search(true);
};
for (const id of ["order", "unmarked"]) at(id).onchange = () => shown && search();
at("more").onclick = () => {
  const next = photos.length;
  showMore().then(() => photos[next] && go(next), fail);
};
at("photos").onkeydown = (event) => onKey(event, go);
at("teach").onclick = teach;
at("sidecars").onclick = preview;
at("undo").onclick = undo;
at("write").onclick = write;
at("cancel").onclick = () => at("review").close();
at("door").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", at("token").value.trim());
  at("door").hidden = true;
  showProblem("");
  refresh().catch(fail);
};

async function refresh() {
  const library = await ask("");
  at("promise").textContent = `${times(library.photos, "photo")}: find, mark, teach.`;
  at("tags").replaceChildren(...library.tags.map((value) => element("option", { value })));
  at("starts").hidden = Boolean(shown) || !library.tags.length;
  at("starts").replaceChildren("Your tags:", ...library.tags.map(startWith));
  setUndoable(library.undoable);
  if (undoable) at("bar").hidden = false;
}

function startWith(tag) {
  const button = element("button", { type: "button", textContent: printable(tag) });
  button.onclick = () => {
    at("query").value = at("tag").value = tag;
    search(true);
  };
  return button;
}

takeToken();
refresh().catch(fail);
