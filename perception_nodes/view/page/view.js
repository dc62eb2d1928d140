// The page of perception_nodes.view: connection, cameras and their health. It asks for an update when
// it has drawn the last one, so that a slow browser gets fewer. Texts of the graph (frame_id, classes,
// reasons) are only ever put into the page as text. why.js draws figures, frames.js single frames.
"use strict";

const LOG = 200, STALE_S = 1, GONE_S = 2, LOST_MS = 2500, AGAIN_MS = 1000, WINDOW_S = 60;
const SHAPES = { NOMINAL: "●", DEGRADED: "▼", SKIPPING: "◆", UNSAFE: "✖", SILENT: "?", WAITING: "…" };
const ORDER = ["NOMINAL", "DEGRADED", "SKIPPING", "WAITING", "SILENT", "UNSAFE"];

const $ = (id) => document.getElementById(id);
const decoder = new TextDecoder();
let socket, setup, chosen, heardMs = 0, now = 0, turnedS = 0, stopRequested = null;
let cameras = {};  // by name: {figure, canvas, frames, intervals, facts, picture, seenMs, healthMs}

function element(kind, classes, text) {
  const made = document.createElement(kind);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  return made;
}

const number = (value, digits) => value === null || value === undefined ? "–"
  : value === Infinity ? "no result" : value.toFixed(digits);
const time = (ms) => new Date(ms).toLocaleTimeString("en-GB");
const word = ({ status }) => setup.statuses[status][0].replace("_", " ");
const shape = ({ status }) => setup.statuses[status][3];
const spent = ({ published, ms }) => published ? `${ms.toFixed(1)} ms` : "no result";
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const several = () => setup.cameras.length > 1;

// --- connection ---------------------------------------------------------------------------------

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/stream`);
  socket.binaryType = "arraybuffer";
  const asked = socket;
  socket.onmessage = async ({ data }) => {
    heardMs = performance.now();
    try {
      if (typeof data === "string") begin(JSON.parse(data).setup);
      else await take(data);
    } catch (error) {
      console.error(error);
      asked.close();
    }
    // Not drawn, and so not asked for, while the page is hidden.
    requestAnimationFrame(() => asked.readyState === WebSocket.OPEN && asked.send("next"));
  };
  socket.onclose = () => setTimeout(connect, AGAIN_MS);
}

function begin(given) {
  const anew = !setup || setup.began !== given.began || setup.cameras.join() !== given.cameras.join();
  setup = given;
  const before = cameras;
  cameras = {};
  forgetFrames();
  for (const id of ["cameras", "log", "stops"]) $(id).replaceChildren();
  $("no-stop").hidden = false;
  $("cameras").classList.toggle("several", several());
  for (const name of setup.cameras) {
    const figure = element("figure", "camera"), canvas = element("canvas");
    const caption = element("figcaption"), title = element("button", "name", name);
    const objects = element("span", "objects"), outcome = element("span", "outcome", "waiting for a frame");
    const mode = element("span", "mode", "…"), cause = element("div", "cause", "waiting for the watchdog");
    const health = element("div", "health");
    title.type = "button";
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${name}: no frame yet`);
    health.append(mode, cause);
    caption.append(title, objects, outcome, health);
    figure.append(canvas, caption);
    figure.onclick = () => choose(name);
    $("cameras").append(figure);
    const picture = anew ? null : before[name].picture;
    cameras[name] = { figure, canvas, title, objects, outcome, mode, cause, frames: [], intervals: [],
      facts: anew ? null : before[name].facts, picture, seenMs: anew ? performance.now() : before[name].seenMs,
      healthMs: 0 };
    if (picture) draw(canvas, picture);
  }
  showStrip();
  choose(setup.cameras.includes(chosen) ? chosen : setup.cameras[0]);
  openLinked();
}

function choose(name) {
  chosen = name;
  for (const [other, one] of Object.entries(cameras)) {
    one.figure.classList.toggle("chosen", other === name);
    one.title.setAttribute("aria-pressed", other === name);
  }
  for (const one of document.querySelectorAll(".of-camera")) one.textContent = several() ? name : "";
  showStrip();
  showFigures(true);
}

// An update: the length of the facts, the facts as JSON, the pictures that they name, in their order.
async function take(data) {
  const size = new DataView(data).getUint32(0, true);
  const facts = JSON.parse(decoder.decode(new Uint8Array(data, 4, size)));
  let start = 4 + size;
  now = facts.now;
  turnedS = facts.turned;
  addMisses(Object.entries(facts.cameras).flatMap(([camera, found]) =>
    found.misses.map((miss) => ({ ...miss, camera }))));
  for (const [name, found] of Object.entries(facts.cameras)) {
    const one = cameras[name];
    one.facts = found;
    one.healthMs = performance.now() - 1000 * found.health_age;
    one.frames.push(...found.frames);
    const gone = one.frames.findIndex(([at]) => at > now - WINDOW_S);
    one.frames.splice(0, gone < 0 ? one.frames.length : gone);
    one.intervals.push(...found.intervals);
    one.intervals.splice(0, Math.max(0, one.intervals.length - 3600 / setup.interval_s));
    if (found.picture) {
      const jpeg = new Blob([new Uint8Array(data, start, found.picture.bytes)], { type: "image/jpeg" });
      start += found.picture.bytes;
      one.picture?.image.close();
      one.picture = { ...found.picture, image: await createImageBitmap(jpeg) };
      one.seenMs = performance.now() - 1000 * found.picture.age;
      draw(one.canvas, one.picture);
    }
  }
  showStop(facts.safe_stop, facts.stops);
  for (const entry of facts.log) addLine($("log"), entry.at, entry.kind,
    several() ? `${entry.camera}: ${entry.text}` : entry.text);
  showState();
  showStrip();
  showFigures();
}

// --- pictures -----------------------------------------------------------------------------------

function draw(canvas, shown) {
  const { image, objects, looks } = shown;
  const dense = Math.min(window.devicePixelRatio || 1, 2);
  const width = Math.round((canvas.clientWidth || image.width) * dense);
  const height = Math.round(width * image.height / image.width);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
    canvas.style.aspectRatio = `${width} / ${height}`;
  }
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, 0, 0, width, height);
  pen.font = `600 ${Math.round(12 * dense)}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  pen.lineWidth = dense;
  pen.strokeStyle = setup.look_colour;
  for (const [left, top, right, bottom] of looks ?? []) {
    pen.strokeRect(left * width, top * height, (right - left) * width, (bottom - top) * height);
  }
  for (const [left, top, right, bottom, name, score, shade, id] of [...(objects ?? [])].reverse()) {
    const [x, y] = [left * width, top * height], [w, h] = [(right - left) * width, (bottom - top) * height];
    pen.lineWidth = 4 * dense;
    pen.strokeStyle = "rgb(0 0 0 / .55)";
    pen.strokeRect(x, y, w, h);
    pen.lineWidth = 2 * dense;
    pen.strokeStyle = shade;
    pen.strokeRect(x, y, w, h);
    const text = `${id === null ? "" : `#${id} `}${name} ${score.toFixed(2)}`, tall = 17 * dense;
    const wide = pen.measureText(text).width + 10 * dense;
    const at = [Math.max(0, Math.min(x - dense, width - wide)), y > tall ? y - tall : y];
    pen.fillStyle = shade;
    pen.fillRect(...at, wide, tall);
    pen.fillStyle = "#10141c";
    pen.fillText(text, at[0] + 5 * dense, at[1] + tall / 2 + dense / 2);
  }
  const [, tint, inTime] = setup.statuses[shown.status];
  if (!inTime) {
    pen.lineWidth = 6 * dense;
    pen.strokeStyle = tint;
    pen.strokeRect(3 * dense, 3 * dense, width - 6 * dense, height - 6 * dense);
  }
  canvas.setAttribute("aria-label", `${word(shown)}, ${counted(shown)}`);
}

function counted({ objects, published, looks }) {
  const again = looks?.length ? `; ${looks.length} second look${looks.length > 1 ? "s" : ""}` : "";
  if (!objects) return (published ? "objects not known" : "nothing published") + again;
  const counts = new Map();
  for (const one of objects) counts.set(one[4], (counts.get(one[4]) ?? 0) + 1);
  const most = [...counts].sort((a, b) => b[1] - a[1]);
  return (most.map(([name, count]) => `${count} ${name}`).join(", ") || "no object") + again;
}

function showCamera(one) {
  const oldS = (performance.now() - one.seenMs) / 1000, old = oldS > 2 * STALE_S;
  one.figure.classList.toggle("old", old);
  const shown = one.picture;
  one.objects.textContent = shown ? counted(shown) : "";
  one.outcome.textContent = old ? `no picture for ${Math.round(oldS)} s`
    : shown ? `${shape(shown)} ${word(shown)} ${shown.published ? spent(shown) : ""}` : "waiting for a frame";
  one.outcome.title = shown ? `frame ${shown.sequence}, frame_id ${shown.frame_id}, stamp ${shown.stamp}` : "";
}

// --- state: what is known of the graph, and how old that is -------------------------------------

const silentS = () => (performance.now() - heardMs) / 1000;
const isLost = () => silentS() > LOST_MS / 1000;
// How far what we show lies behind: our server's own process got no time, or reports wait for it.
const behindS = () => Math.max(turnedS, ...Object.values(cameras).map(({ facts }) => facts?.lag ?? 0));

function stateOf(one) {
  const health = one.facts?.health;
  if (!health) return { mode: "WAITING", cause: "for the watchdog" };
  const ageS = (performance.now() - one.healthMs) / 1000;
  if (isLost()) return { mode: health.mode, cause: health.cause, lastKnown: true };
  if (behindS() > STALE_S) {
    return { mode: health.mode, cause: `${health.cause} (this page is behind)`, lastKnown: true };
  }
  if (ageS > STALE_S) {
    return { mode: "SILENT", cause: `no word from the watchdog for ${ageS.toFixed(1)} s; before: ${health.mode}`, ageS };
  }
  return { mode: health.mode, cause: health.cause, faults: health.faults.filter((text) => text !== health.cause) };
}

function showState() {
  if (!setup) return;
  let worst = "NOMINAL", goneS = Infinity;
  for (const one of Object.values(cameras)) {
    const state = stateOf(one);
    showHealth(one, state);
    showCamera(one);
    if (ORDER.indexOf(state.mode) > ORDER.indexOf(worst)) worst = state.mode;
    goneS = Math.min(goneS, state.mode === "SILENT" ? state.ageS : 0);
  }
  const lost = isLost(), graphGone = !lost && goneS > GONE_S && Number.isFinite(goneS);
  document.body.classList.toggle("lost-link", lost || graphGone);
  const last = Object.entries(cameras).filter(([, { facts }]) => facts?.health).map(([name, one]) =>
    `${several() ? `${name} ` : ""}${one.facts.health.mode}, ${rateOf(one).toFixed(0)} frames/s`).join("; ");
  const goneText = lost ? `DISCONNECTED ${Math.round(silentS())} s` : `DISCONNECTED from the graph ${Math.round(goneS)} s`;
  $("gone").hidden = !(lost && heardMs) && !graphGone;
  const told = `${goneText}${last ? `; last known: ${last}` : "; nothing was known"}`;
  if (!$("gone").hidden && $("gone").textContent !== told) $("gone").textContent = told;
  const lag = behindS(), behind = !lost && !graphGone && lag > STALE_S;
  $("behind").hidden = !behind;
  if (behind) $("behind").textContent = `THIS PAGE IS BEHIND by ${lag.toFixed(1)} s: this machine leaves it no time. The graph may be ahead of what is shown.`;
  $("stop").hidden = !stopRequested;
  if (stopRequested) $("stop").firstChild.textContent = lost || graphGone ? "LAST KNOWN: " : "";
  const silent = lost || graphGone;
  $("worst").className = `mode ${silent ? "SILENT" : worst}`;
  $("worst").textContent = silent ? "not known" : `${SHAPES[worst]} ${worst}`;
  const alarm = silent ? `✖ ${goneText}` : stopRequested ? "✖ SAFE STOP" : `${SHAPES[worst]} ${worst}`;
  const title = `${alarm} – perception ${setup.about.host ?? ""}`.trim();
  if (document.title !== title) document.title = title;
  const icon = silent || stopRequested || worst === "UNSAFE" || worst === "SILENT" ? "icon-bad.svg"
    : worst === "NOMINAL" && !behind ? "icon.svg" : "icon-fair.svg";
  if ($("icon").getAttribute("href") !== icon) $("icon").setAttribute("href", icon);
}

setInterval(() => {
  const lost = isLost();
  $("link").className = lost ? "lost" : "live";
  const state = lost ? heardMs ? `no word for ${Math.round(silentS())} s` : "connecting" : "live";
  if ($("link").textContent !== state) $("link").textContent = state;
  showState();
}, 250);

function showHealth(one, { mode, cause, faults = [], lastKnown }) {
  const shownHealth = JSON.stringify([mode, cause, faults, lastKnown]);
  if (one.shownHealth === shownHealth) return;
  one.shownHealth = shownHealth;
  one.mode.className = `mode ${lastKnown ? "known" : mode}`;
  one.mode.textContent = `${lastKnown ? "last known: " : ""}${SHAPES[mode]} ${mode}`;
  one.cause.replaceChildren(cause);
  if (faults.length) {
    const list = element("ul");
    for (const text of faults) list.append(element("li", "", text));
    one.cause.append(list);
  }
}

function showStop(requested, entries) {
  stopRequested = requested;
  for (const entry of entries) {
    addLine($("stops"), entry.at, entry.on ? "on" : "off",
      entry.on ? `requested: ${entry.text || "no cause was given"}` : "ended");
    if (entry.on) $("stop").replaceChildren("", `✖ SAFE STOP requested at ${time(entry.at)}: ${entry.text}`);
  }
  if (requested && !$("stop").childNodes.length) $("stop").replaceChildren("", "✖ SAFE STOP requested");
  $("no-stop").hidden = $("stops").childElementCount > 0;
  $("no-stop").textContent = requested === null ? "Not known yet: the watchdog has not said."
    : `Not requested since this page's server started at ${time(setup.began)}.`;
}

function addLine(list, at, kind, text) {
  const line = element("li", kind);
  line.append(element("time", "", time(at)), element("span", "", text));
  list.prepend(line);
  while (list.childElementCount > LOG) list.lastChild.remove();
}

function showStrip() {
  const { facts } = cameras[chosen] ?? {};
  const facts_of = { ...setup.about, model: facts?.runs || facts?.model || "not known yet" };
  const shown = JSON.stringify(facts_of);
  if ($("strip").dataset.shown === shown) return;
  $("strip").dataset.shown = shown;
  $("strip").replaceChildren(...Object.entries(facts_of).map(([name, value]) => {
    const pair = element("div");
    pair.append(element("dt", "", name), element("dd", name, value));
    return pair;
  }));
}

// --- light and dark -----------------------------------------------------------------------------

const system = matchMedia("(prefers-color-scheme: dark)");
function dress() {
  const wanted = localStorage.getItem("theme");
  document.documentElement.classList.toggle("dark", wanted ? wanted === "dark" : system.matches);
  window.dispatchEvent(new Event("dressed"));
}
system.onchange = dress;
$("theme").onclick = () => {
  localStorage.setItem("theme", document.documentElement.classList.contains("dark") ? "light" : "dark");
  dress();
};
dress();
// The other scripts are there when the document is.
addEventListener("DOMContentLoaded", connect);
