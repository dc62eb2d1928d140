// Single frames: the tiles of those that missed, and one of them with its budget by stage.
"use strict";

const MISSES = 60, TILES = 8;
let misses = [], opened = null, asleep = false, waiting = 0;

function forgetFrames() {
  misses = [];
  wantedCause = cursorFrame = null;
  showMisses(true);
}

function addMisses(found) {
  if (!found.length) return;
  misses.unshift(...found.sort((a, b) => b.n - a.n));
  const kept = {};
  misses = misses.filter(({ camera }) => (kept[camera] = (kept[camera] ?? 0) + 1) <= MISSES);
  waiting += found.length;
  showMisses();
}

// Tiles grouped by cause. They stand still while the pointer or the focus is among them.
function showMisses(atOnce) {
  if (asleep && !atOnce) {
    $("missed-count").textContent = `${waiting} newer wait until the pointer leaves`;
    return;
  }
  waiting = 0;
  const groups = new Map();
  for (const miss of misses) {
    if (wantedCause !== null && (miss.cause !== wantedCause || miss.camera !== chosen)) continue;
    const key = `${miss.camera} ${miss.cause}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(miss);
  }
  $("misses").replaceChildren(...[...groups.values()].map(group));
  $("all-causes").hidden = wantedCause === null;
  $("missed-count").textContent = !misses.length ? "" : several() ? `the last ${MISSES} of each camera` : `the last ${misses.length}`;
  sayNone();
}

function sayNone() {
  $("no-miss").hidden = $("misses").childElementCount > 0;
  const known = setup && Object.values(cameras).some(({ facts }) => facts?.summary.frames_in);
  $("no-miss").textContent = wantedCause !== null ? "None of this cause is among the last ones."
    : known ? `None since this page's server started at ${time(setup.began)}.` : "Not known yet.";
}

function group(found) {
  const box = element("div", "group"), [first] = found, head = element("h3"), mark = element("i", "", shape(first));
  mark.style.color = setup.statuses[first.status][1];
  head.append(mark, `${several() ? `${first.camera}: ` : ""}${word(first)} `, element("span", "soft", `${found.length} × ${first.reason}`));
  const list = element("ol");
  for (const miss of found.slice(0, wantedCause === null ? TILES : MISSES)) list.append(tileOf(miss));
  box.append(head, list);
  return box;
}

function tileOf(miss) {
  const item = element("li"), button = element("button"), text = element("span");
  button.type = "button";
  if (miss.pictured) {
    const image = element("img", "thumb");
    image.loading = "lazy";
    image.alt = "";
    image.src = `missed/${miss.n}.jpg`;
    button.append(image);
  } else button.append(element("div", "thumb none", "no picture"));
  const name = element("b", "", `${shape(miss)} ${word(miss)}`);
  text.append(name, ` ${spent(miss)}`, element("br"), `frame ${miss.sequence}, ${time(miss.at)}`);
  button.append(text);
  button.title = miss.reason;
  button.onclick = () => show(miss);
  item.append(button);
  return item;
}

let pointed = false;
function rest() {
  asleep = pointed || $("missed").querySelector(":focus-visible") !== null;
  if (!asleep) showMisses();
}
for (const [kind, isIn] of [["pointerenter", true], ["pointerleave", false]]) {
  $("missed").addEventListener(kind, () => {
    pointed = isIn;
    rest();
  });
}
for (const kind of ["focusin", "focusout"]) $("missed").addEventListener(kind, () => setTimeout(rest));
$("all-causes").onclick = () => {
  wantedCause = null;
  showMisses(true);
  showFigures(true);
};

// --- one frame ----------------------------------------------------------------------------------

const linkOf = ({ camera, sequence }) => `#${encodeURIComponent(camera)}/${sequence}`;

async function openFrame(camera, sequence) {
  const known = misses.find((miss) => miss.camera === camera && miss.sequence === sequence);
  if (known) return show(known);
  const answer = await fetch(`frame/${encodeURIComponent(camera)}/${sequence}.json`).catch(() => null);
  if (answer?.ok) return show({ ...await answer.json(), camera });
  $("missed-count").textContent = `frame ${sequence} of ${camera} is not known any more`;
}

function openLinked() {
  const [camera, sequence] = location.hash.slice(1).split("/");
  if (/^\d+$/.test(sequence ?? "")) openFrame(decodeURIComponent(camera), Number(sequence));
}
addEventListener("hashchange", () => setup && !$("frame").open && openLinked());

async function show(frame) {
  opened = frame;
  const reached = Object.keys(frame.stages).at(-1), deadline = setup.deadline_ms;
  $("frame-title").textContent = `frame ${frame.sequence}: ${shape(frame)} ` + (frame.published ? `${word(frame)}, ${spent(frame)} of ${deadline} ms`
    : `${word(frame)}${reached ? ` after ${reached}` : ""}`);
  $("frame-reason").textContent = frame.reason;
  $("frame-facts").textContent = `${frame.camera}, ${time(frame.at)}, model ${frame.model || "none"}, frame_id ${frame.frame_id}, stamp ${frame.stamp}`
    + (frame.pictured ? `: ${counted(frame)}` : "");
  const whole = Math.max(frame.ms, deadline * 1.2), limit = element("u");
  limit.style.left = `${100 * deadline / whole}%`;
  $("frame-stages").replaceChildren(...Object.entries(frame.stages).map(([stage, ms]) => {
    const part = element("i", "", ms > whole / 8 ? `${stage} ${ms.toFixed(1)}` : "");
    part.style.width = `${100 * ms / whole}%`;
    part.style.background = setup.stage_colours[Object.keys(setup.stages).indexOf(stage)];
    return part;
  }), limit);
  const table = element("table"), head = element("tr");
  head.append(...["stage", "took ms", "budget ms", "over ms"].map((text, place) => element("th", place ? "number" : "", text)));
  table.append(head, ...Object.entries(setup.stages).map(([stage, budget]) => {
    const row = element("tr"), ms = frame.stages[stage], over = ms > budget;
    row.append(element("td", "", stage), element("td", "number", ms === undefined ? "not reached" : ms.toFixed(2)),
      element("td", "number", budget.toFixed(2)), element("td", over ? "number over" : "number", over ? `+${(ms - budget).toFixed(2)}` : ""));
    return row;
  }));
  $("frame-budget").replaceChildren(table);
  const place = misses.indexOf(frame);
  $("before").disabled = place < 0 || place === misses.length - 1;
  $("after").disabled = place <= 0;
  $("frame-done").textContent = "";
  $("frame-picture").hidden = $("frame-none").hidden = true;
  if (!$("frame").open) {
    $("frame").showModal();
    $("frame").prepend($("notices"));  // nothing covers them
  }
  const answer = frame.pictured ? await fetch(`missed/${frame.n}.jpg`).catch(() => null) : null;
  if (opened !== frame) return;
  if (answer?.ok) {
    const image = await createImageBitmap(await answer.blob());
    $("frame-picture").hidden = false;
    draw($("frame-picture"), { ...frame, image });
  } else $("frame-none").hidden = false;
}

function step(by) {
  const place = misses.indexOf(opened) + by;
  if (misses[place]) show(misses[place]);
}

function save(blob, kind) {
  const link = element("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${opened.camera}-${opened.sequence}.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  $("frame-done").textContent = `saved ${link.download}`;
}

// The frame as a picture: its pixels if there are any, and its budget by stage in words and bars.
function pictureOf(frame) {
  const source = $("frame-picture"), has = !source.hidden, made = element("canvas"), pen = made.getContext("2d");
  const width = has ? source.width : 900, top = has ? source.height : 0, row = 26, names = Object.keys(setup.stages);
  made.width = width;
  made.height = top + row * (names.length + 4);
  pen.fillStyle = colour("--card");
  pen.fillRect(0, 0, width, made.height);
  if (has) pen.drawImage(source, 0, 0);
  pen.font = "16px system-ui, sans-serif";
  const lines = [$("frame-title").textContent, frame.reason, $("frame-facts").textContent];
  pen.fillStyle = colour("--ink");
  lines.forEach((text, place) => pen.fillText(text, 12, top + row * (place + 1) - 6, width - 24));
  const scale = (width - 320) / Math.max(frame.ms, setup.deadline_ms * 1.2);
  let left = 300;
  names.forEach((name, place) => {
    const y = top + row * (place + 3) + 6, ms = frame.stages[name];
    pen.fillStyle = colour("--ink");
    pen.fillText(`${name} ${ms === undefined ? "not reached" : `${ms.toFixed(2)} ms`} of ${setup.stages[name].toFixed(1)}`, 12, y + 17);
    pen.fillStyle = setup.stage_colours[place];
    pen.fillRect(left, y, (ms ?? 0) * scale, row - 6);
    left += (ms ?? 0) * scale;
  });
  pen.fillStyle = colour("--deadline");
  pen.fillRect(300 + setup.deadline_ms * scale, top + 3 * row, 2, row * names.length + 6);
  return made;
}

$("before").onclick = () => step(1);
$("after").onclick = () => step(-1);
$("frame-link").onclick = async () => {
  history.replaceState(null, "", linkOf(opened));
  const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
  $("frame-done").textContent = copied ? "copied" : "the address of this page is now the link";
};
$("frame-json").onclick = () => save(new Blob([JSON.stringify({ ...opened, deadline_ms: setup.deadline_ms, budget_ms: setup.stages, ...setup.about }, null, 2)], { type: "application/json" }), "json");
$("frame-png").onclick = () => pictureOf(opened).toBlob((blob) => save(blob, "png"));
$("frame").onclick = ({ target }) => target === $("frame") && $("frame").close();
$("frame").onclose = () => {
  document.querySelector("main").before($("notices"));
  if (location.hash) history.replaceState(null, "", location.pathname);
};
$("close").onclick = () => $("frame").close();
$("frame").onkeydown = ({ key }) => step({ ArrowLeft: 1, ArrowRight: -1 }[key] ?? NaN);
