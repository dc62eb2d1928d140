// The page of perception_nodes.view. It asks for an update when it has drawn the last one, so that a
// slow browser gets fewer. Texts of the graph (frame_id, classes, reasons) are only ever put into
// the page as text.
"use strict";

const MISSES = 60, LOG = 200, STALE_S = 1, LOST_MS = 2500, AGAIN_MS = 1000, WINDOW_S = 60;
const CHART_MS = 500, CHART_PX = 230, TRACK_BUDGETS = 1.5;
const STAGE_COLOURS = ["#a5b4fc", "#67c7e8", "#7b93ff", "#b197fc", "#ced4da"];

const $ = (id) => document.getElementById(id);
const decoder = new TextDecoder();
let socket, setup, chosen, chart, heardMs = 0, chartMs = 0, now = 0, opened = null;
let cameras = {};  // by name: {figure, canvas, frames, facts, picture, seenMs}
let misses = [];

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
const spent = ({ published, ms }) => published ? `${ms.toFixed(1)} ms` : "";
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

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

setInterval(() => {
  const silentMs = performance.now() - heardMs;
  const lost = silentMs > LOST_MS;
  document.body.classList.toggle("lost-link", lost);
  $("link").className = lost ? "lost" : "live";
  const state = lost ? heardMs ? `no word for ${Math.round(silentMs / 1000)} s` : "connecting" : "live";
  if ($("link").textContent !== state) $("link").textContent = state;
}, 250);

function begin(given) {
  setup = given;
  cameras = {};
  misses = [];
  for (const id of ["cameras", "health", "misses", "log", "stops"]) $(id).replaceChildren();
  $("no-miss").hidden = false;
  $("missed-count").textContent = "";
  $("cameras").classList.toggle("several", setup.cameras.length > 1);
  for (const name of setup.cameras) {
    const figure = element("figure", "camera"), canvas = element("canvas");
    const caption = element("figcaption"), title = element("b", "", name);
    const objects = element("span", "objects"), outcome = element("span", "outcome", "waiting for a frame");
    caption.append(title, objects, outcome);
    figure.append(canvas, caption);
    figure.onclick = () => choose(name);
    $("cameras").append(figure);
    const health = element("div", "health"), mode = element("span", "mode", "…");
    const cause = element("div", "cause", "waiting for the watchdog");
    health.append(mode, cause);
    $("health").append(health);
    cameras[name] = { figure, canvas, objects, outcome, mode, cause, frames: [], facts: null,
      picture: null, seenMs: performance.now() };
  }
  choose(setup.cameras.includes(chosen) ? chosen : setup.cameras[0]);
}

function choose(name) {
  chosen = name;
  for (const [other, one] of Object.entries(cameras)) {
    one.figure.classList.toggle("chosen", other === name);
  }
  for (const one of document.querySelectorAll(".of-camera")) {
    one.textContent = setup.cameras.length > 1 ? name : "";
  }
  chartMs = 0;
  if (cameras[name].facts) showFigures();
}

// An update: the length of the facts, the facts as JSON, the pictures that they name, in their order.
async function take(data) {
  const size = new DataView(data).getUint32(0, true);
  const facts = JSON.parse(decoder.decode(new Uint8Array(data, 4, size)));
  let start = 4 + size;
  now = facts.now;
  const missed = Object.entries(facts.cameras).flatMap(([camera, found]) =>
    found.misses.map((miss) => ({ ...miss, camera })));
  for (const miss of missed.sort((a, b) => a.n - b.n)) addMiss(miss);
  for (const [name, found] of Object.entries(facts.cameras)) {
    const one = cameras[name];
    one.facts = found;
    one.frames.push(...found.frames);
    const gone = one.frames.findIndex(([at]) => at > now - WINDOW_S);
    one.frames.splice(0, gone < 0 ? one.frames.length : gone);
    if (found.picture) {
      const jpeg = new Blob([new Uint8Array(data, start, found.picture.bytes)], { type: "image/jpeg" });
      start += found.picture.bytes;
      one.picture?.image.close();
      one.picture = { ...found.picture, image: await createImageBitmap(jpeg) };
      one.seenMs = performance.now() - 1000 * found.picture.age;
      draw(one.canvas, one.picture);
    }
    showCamera(one);
    showHealth(name, one, found);
  }
  showStop(facts.safe_stop, facts.stops);
  for (const entry of facts.log) addLine($("log"), entry.at, entry.kind,
    setup.cameras.length > 1 ? `${entry.camera}: ${entry.text}` : entry.text);
  showFigures();
}

// --- pictures -----------------------------------------------------------------------------------

function draw(canvas, shown) {
  const { image, objects } = shown;
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

function counted({ objects, published }) {
  if (!objects) return published ? "objects not known" : "nothing published";
  const counts = new Map();
  for (const one of objects) counts.set(one[4], (counts.get(one[4]) ?? 0) + 1);
  const most = [...counts].sort((a, b) => b[1] - a[1]);
  return most.map(([name, count]) => `${count} ${name}`).join(", ") || "no object";
}

function showCamera(one) {
  const oldS = (performance.now() - one.seenMs) / 1000, old = oldS > 2 * STALE_S;
  one.figure.classList.toggle("old", old);
  const shown = one.picture;
  one.objects.textContent = shown ? counted(shown) : "";
  one.outcome.textContent = old ? `no picture for ${Math.round(oldS)} s`
    : shown ? `${word(shown)} ${spent(shown)}` : "…";
  one.outcome.title = shown ? `frame_id ${shown.frame_id}, stamp ${shown.stamp}` : "";
}

// --- state --------------------------------------------------------------------------------------

function showHealth(name, one, { health, health_age: age }) {
  const silent = health && age > STALE_S;
  const mode = !health ? "WAITING" : silent ? "SILENT" : health.mode;
  const cause = !health ? "for the watchdog"
    : silent ? `no word from the watchdog for ${age.toFixed(1)} s; before: ${health.mode}` : health.cause;
  const faults = health && !silent ? health.faults.filter((text) => text !== cause) : [];
  const shownHealth = JSON.stringify([mode, cause, faults]);
  if (one.shownHealth === shownHealth) return;
  one.shownHealth = shownHealth;
  one.mode.className = `mode ${mode}`;
  one.mode.textContent = setup.cameras.length > 1 ? `${name}: ${mode}` : mode;
  one.cause.replaceChildren(cause);
  if (faults.length) {
    const list = element("ul");
    for (const text of faults) list.append(element("li", "", text));
    one.cause.append(list);
  }
}

function showStop(requested, entries) {
  for (const entry of entries) {
    addLine($("stops"), entry.at, entry.on ? "on" : "off",
      entry.on ? `requested: ${entry.text || "no cause was given"}` : "ended");
    if (entry.on) $("stop").textContent = `SAFE STOP requested at ${time(entry.at)}: ${entry.text}`;
  }
  $("stop").hidden = !requested;
  $("no-stop").hidden = $("stops").childElementCount > 0;
}

function addLine(list, at, kind, text) {
  const line = element("li", kind);
  line.append(element("time", "", time(at)), element("span", "", text));
  list.prepend(line);
  while (list.childElementCount > LOG) list.lastChild.remove();
}

// --- figures ------------------------------------------------------------------------------------

function tile(name, value, unit, over) {
  const made = element("div", over ? "tile over" : "tile"), strong = element("b", "", value);
  if (unit) strong.append(element("small", "", ` ${unit}`));
  made.append(strong, element("span", "", name));
  return made;
}

function showFigures() {
  if (performance.now() - chartMs < CHART_MS || document.hidden) return;
  chartMs = performance.now();
  const { facts, frames } = cameras[chosen], { summary, health, model } = facts;
  const looks = Object.entries(summary.models), total = looks.reduce((sum, [, count]) => sum + count, 0);
  $("model").textContent = looks.length < 2 ? model
    : looks.map(([name, count]) => `${name} ${(100 * count / total).toFixed(1)} %`).join(", ");
  const deadline = setup.deadline_ms, rows = [];
  const rate = frames.filter(([at]) => at > now - 2).length / 2;
  for (const [name, key] of [["p50", "p50"], ["p99", "p99"], ["p99.9", "p99_9"]]) {
    const value = summary.latency_ms[key], unknown = !summary.frames_in;
    if (value === null && !unknown) rows.push(tile(name, "no result", "", true));
    else rows.push(tile(name, number(value, 1), "ms", value > deadline));
  }
  const missed = summary.miss_rate;
  rows.push(tile("missed", missed === null ? "–" : (100 * missed).toFixed(missed && missed < 0.1 ? 2 : 0), "%", missed > 0));
  rows.push(tile("now", rate.toFixed(0), "frames/s"), tile("frames", String(summary.frames_in)));
  $("tiles").replaceChildren(...rows);

  const stages = Object.entries(setup.stages).map(([name, budget]) => [name, summary.stages_ms[name], budget]);
  const { p50, p99 } = summary.latency_ms, worst = summary.frames_in ? Infinity : null;
  stages.push(["total", { p50: p50 ?? worst, p99: p99 ?? worst }, deadline]);
  $("stages").tBodies[0].replaceChildren(...stages.map(([name, { p50, p99 }, budget]) => {
    const row = element("tr", `${p99 > budget ? "over " : ""}${name === "total" ? "total" : ""}`);
    const track = element("div", "track"), limit = element("u");
    for (const value of [p99, p50]) {
      const bar = element("i");
      bar.style.width = `${Math.min(100, 100 * (value ?? 0) / budget / TRACK_BUDGETS)}%`;
      track.append(bar);
    }
    limit.style.left = `${100 / TRACK_BUDGETS}%`;
    track.append(limit);
    const cell = element("td");
    cell.append(track);
    row.append(element("td", "", name), cell, element("td", "number", number(p50, 1)),
      element("td", "number p99", number(p99, 1)), element("td", "number", number(budget, 1)));
    return row;
  }));

  $("statuses").replaceChildren(...setup.statuses.map(([name, tint]) => {
    const count = health ? health.counts[name] : 0, item = element("span", count ? "" : "none");
    const mark = element("i");
    mark.style.background = tint;
    item.append(mark, `${name} `, element("b", "", String(count)));
    return item;
  }), element("span", "soft", "since the start of the graph"));
  showChart(frames);
}

// Each frame at its latency; charts.js draws it. A stall does not flatten all else: the chart ends at four
// deadlines, and slower frames are on a rail, as those without a result are.
function showChart(frames) {
  const deadline = setup.deadline_ms, slowest = Math.max(...frames.map(([, ms]) => ms ?? 0));
  const top = Math.max(1.25 * deadline, Math.min(1.08 * slowest, 4 * deadline));
  const [slower, without, end] = ["slower", "without", "end"].map((name) => top * setup.places[name]);
  const seconds = [], values = setup.statuses.map(() => []), labels = setup.statuses.map(() => []);
  for (const [at, ms, status] of frames) {
    seconds.push(at - now);
    values.forEach((one) => one.push(null));
    values[status][seconds.length - 1] = ms === null ? without : ms > top ? slower : ms;
    if (ms > top) labels[status].push([at - now, ms.toFixed(0)]);
  }
  const described = {
    x: { title: "seconds from now", range: [-WINDOW_S, 0], rails: [] },
    y: { title: "ms", range: [0, end], top, rails: [[slower, `> ${top.toFixed(0)}`], [without, "no result"]] },
    tables: [[seconds, ...values]], spans: [], height_px: CHART_PX, legend: false,
    lines: [{ text: `deadline ${deadline} ms`, colour: colour("--deadline"), y: deadline }],
    series: setup.statuses.map(([name, tint, inTime], one) => (
      { name, colour: tint, kind: "points", size: inTime ? 3 : 8, labels: labels[one] })),
  };
  if (chart) chart.show(described);
  else chart = drawChart($("chart"), described);
}

// --- missed frames ------------------------------------------------------------------------------

function addMiss(miss) {
  misses.unshift(miss);
  const item = element("li"), button = element("button"), text = element("span");
  button.type = "button";
  if (miss.pictured) {
    const image = element("img", "thumb");
    image.loading = "lazy";
    image.alt = "";
    image.src = `missed/${miss.n}.jpg`;
    button.append(image);
  } else button.append(element("div", "thumb none", "no picture"));
  const name = element("b", "", word(miss));
  name.style.color = setup.statuses[miss.status][1];
  const where = setup.cameras.length > 1 ? `${miss.camera} ` : "";
  text.append(name, ` ${spent(miss)}`, element("br"), `${where}${time(miss.at)}`);
  button.append(text);
  button.onclick = () => openMiss(miss);
  item.append(button);
  $("misses").prepend(item);
  if (misses.filter(({ camera }) => camera === miss.camera).length > MISSES) {
    const oldest = misses.findLastIndex(({ camera }) => camera === miss.camera);
    misses.splice(oldest, 1);
    $("misses").children[oldest].remove();
  }
  $("missed-count").textContent = setup.cameras.length > 1 ? `the last ${MISSES} of each camera`
    : `the last ${misses.length}`;
  $("no-miss").hidden = true;
}

async function openMiss(miss) {
  opened = miss;
  const reached = Object.keys(miss.stages).at(-1);
  $("frame-title").textContent = miss.published ? `${word(miss)}, ${spent(miss)} of ${setup.deadline_ms} ms`
    : `${word(miss)}${reached ? ` after ${reached}` : ""}`;
  $("frame-reason").textContent = miss.reason;
  $("frame-facts").textContent = `${miss.camera}, ${time(miss.at)}, frame_id ${miss.frame_id}, stamp ${miss.stamp}`
    + (miss.pictured ? `: ${counted(miss)}` : "");
  const whole = Math.max(miss.ms, setup.deadline_ms * 1.2), limit = element("u");
  limit.style.left = `${100 * setup.deadline_ms / whole}%`;
  $("frame-stages").replaceChildren(...Object.entries(miss.stages).map(([stage, ms], place) => {
    const part = element("i", "", ms > whole / 8 ? `${stage} ${ms.toFixed(1)}` : "");
    part.style.width = `${100 * ms / whole}%`;
    part.style.background = STAGE_COLOURS[place];
    part.title = `${stage} ${ms.toFixed(1)} ms`;
    return part;
  }), limit);
  $("before").disabled = misses.at(-1) === miss;
  $("after").disabled = misses[0] === miss;
  $("frame-picture").hidden = $("frame-none").hidden = true;
  if (!$("frame").open) $("frame").showModal();
  const answer = miss.pictured ? await fetch(`missed/${miss.n}.jpg`).catch(() => null) : null;
  if (opened !== miss) return;
  if (answer?.ok) {
    const image = await createImageBitmap(await answer.blob());
    $("frame-picture").hidden = false;
    draw($("frame-picture"), { ...miss, image });
  } else $("frame-none").hidden = false;
}

function step(by) {
  const place = misses.indexOf(opened) + by;
  if (misses[place]) openMiss(misses[place]);
}
$("before").onclick = () => step(1);
$("after").onclick = () => step(-1);
$("frame").onclick = ({ target }) => target === $("frame") && $("frame").close();
$("frame").onkeydown = ({ key }) => step({ ArrowLeft: 1, ArrowRight: -1 }[key] ?? NaN);

// --- light and dark -----------------------------------------------------------------------------

const system = matchMedia("(prefers-color-scheme: dark)");
function dress() {
  const wanted = localStorage.getItem("theme");
  document.documentElement.classList.toggle("dark", wanted ? wanted === "dark" : system.matches);
  chart?.redraw();
}
system.onchange = dress;
$("theme").onclick = () => {
  localStorage.setItem("theme", document.documentElement.classList.contains("dark") ? "light" : "dark");
  dress();
};
dress();
connect();
