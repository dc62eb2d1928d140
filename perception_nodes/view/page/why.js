// Figures of the chosen camera: causes of missed frames, stages against the deadline, every frame.
"use strict";

const CHART_MS = 500, CHART_PX = 250, ROWS = 6, NEAR_PX = 24, ZOOM = 2;
let chart, chartMs = 0, minutes = 1, paused = null, zoomed = null, wantedCause = null, cursorFrame = null;

// Frames a second, over two seconds that end with the newest frame.
function rateOf({ frames }) {
  const last = frames.at(-1)?.[0] ?? 0;
  return frames.filter(([at]) => at > last - 2).length / 2;
}

function tile(name, value, unit, over) {
  const made = element("div", over ? "tile over" : "tile"), strong = element("b", "", value);
  if (unit) strong.append(element("small", "", ` ${unit}`));
  made.append(strong, element("span", "", name));
  return made;
}

function showFigures(atOnce) {
  if (!cameras[chosen]?.facts) return;
  if (!atOnce && (performance.now() - chartMs < CHART_MS || document.hidden)) return;
  chartMs = performance.now();
  const one = cameras[chosen], { summary, health } = one.facts, deadline = setup.deadline_ms, rows = [];
  for (const [name, key] of [["p50", "p50"], ["p99", "p99"], ["p99.9", "p99_9"]]) {
    const value = summary.latency_ms[key], unknown = !summary.frames_in;
    if (value === null && !unknown) rows.push(tile(name, "no result", "", true));
    else rows.push(tile(name, number(value, 1), "ms", value > deadline));
  }
  const missed = summary.miss_rate;
  rows.push(tile("missed", missed === null ? "–" : (100 * missed).toFixed(missed && missed < 0.1 ? 2 : 0), "%", missed > 0));
  const alive = one.frames.length && now - one.frames.at(-1)[0] < GONE_S;
  rows.push(tile("now", summary.frames_in ? alive ? rateOf(one).toFixed(0) : "0" : "–", "frames/s", summary.frames_in && !alive));
  const all = summary.frames_in + summary.unseen, isPart = summary.unseen > Math.max(3, 0.02 * all);
  rows.push(tile(isPart ? "frames seen of all" : "frames, last minute",
    isPart ? `${summary.frames_in} of ${all}` : health || all ? String(summary.frames_in) : "–", "", isPart));
  $("tiles").replaceChildren(...rows);
  showCauses(one);
  showStages(summary);
  sayNone();
  $("statuses").replaceChildren(...setup.statuses.map(([name, tint, , mark]) => {
    const count = health ? health.counts[name] : "–", item = element("span", count ? "" : "none");
    const sign = element("i", "", mark);
    sign.style.color = tint;
    item.append(sign, `${name.replace("_", " ")} `, element("b", "", String(count)));
    return item;
  }), element("span", "soft", "since the start of the graph"));
  if (!paused) showChart(one);
}

// --- why frames missed --------------------------------------------------------------------------

function showCauses(one) {
  const { causes, summary } = one.facts;
  $("no-cause").hidden = causes.length > 0;
  $("no-cause").textContent = summary.frames_in ? "No frame has missed since this page's server started."
    : one.facts.health ? "No frame has come yet." : "Not known yet.";
  $("since").title = `since this page's server started at ${time(setup.began)}`;
  const made = causes.map(([cause, status, stage, reason, ...counts], place) => {
    const row = element("tr", wantedCause === cause ? "chosen" : ""), cell = element("td");
    const button = element("button", "cause-of"), mark = element("i", "", shape({ status }));
    button.type = "button";
    button.setAttribute("aria-pressed", wantedCause === cause);
    button.title = `${word({ status })}: ${reason}`;
    button.dataset.cause = cause;
    mark.style.color = setup.statuses[status][1];
    button.append(mark, element("b", "", word({ status })), ` ${reason}`);
    cell.append(button);
    row.hidden = place >= ROWS && wantedCause !== cause && !counts[0];
    row.append(cell, element("td", "stage", stage), ...counts.map((count) =>
      element("td", count ? "number" : "number none", String(count))));
    return row;
  });
  const focused = document.activeElement?.dataset?.cause;
  $("causes").tBodies[0].replaceChildren(...made);
  if (focused !== undefined) $("causes").querySelector(`[data-cause="${focused}"]`)?.focus();
}

$("causes").onclick = ({ target }) => {
  const button = target.closest("[data-cause]") ?? target.closest("tr")?.querySelector("[data-cause]");
  if (!button) return;
  const cause = Number(button.dataset.cause);
  wantedCause = wantedCause === cause ? null : cause;
  showFigures(true);
  showMisses(true);
  if (wantedCause !== null) $("missed").scrollIntoView({ block: "nearest" });
};

// --- stages -------------------------------------------------------------------------------------

function showStages(summary) {
  const deadline = setup.deadline_ms, names = Object.keys(setup.stages);
  const rows = [["all frames", summary.stages_ms], ["missed frames", summary.stages_of_missed_ms]];
  const totals = rows.map(([, found]) => names.reduce((sum, name) => sum + (found[name].p50 ?? 0), 0));
  const end = Math.max(1.25 * deadline, Math.min(1.05 * Math.max(...totals), 4 * deadline));
  const bars = rows.map(([title, found], row) => {
    const bar = element("div", "stack");
    let left = 0, worst = "", excess = 0;
    names.forEach((name, place) => {
      const ms = found[name].p50;
      if (ms === null) return;
      const part = element("i", "", 100 * ms / end > 11 ? `${name} ${ms.toFixed(1)}` : "");
      part.style.left = `${100 * Math.min(left, end) / end}%`;
      part.style.width = `${100 * Math.max(0, Math.min(ms, end - left)) / end}%`;
      part.style.background = setup.stage_colours[place];
      part.title = `${name} ${ms.toFixed(2)} ms, budget ${setup.stages[name].toFixed(1)} ms`;
      if (ms - setup.stages[name] > excess) [worst, excess] = [name, ms - setup.stages[name]];
      left += ms;
      bar.append(part);
    });
    const limit = element("u");
    limit.style.left = `${100 * deadline / end}%`;
    bar.append(limit);
    const line = element("div", "line");
    const said = !left ? row && summary.frames_in ? "none" : "–" : `${left.toFixed(1)} ms`;
    line.append(element("span", "", title), bar, element("b", left > deadline ? "over" : "", said));
    if (row && worst) line.append(element("p", "blame", `${worst} takes ${excess.toFixed(1)} ms more than its budget of ${setup.stages[worst].toFixed(1)} ms`));
    return line;
  });
  const legend = element("div", "legend");
  names.forEach((name, place) => {
    const item = element("span"), mark = element("i", "square");
    mark.style.background = setup.stage_colours[place];
    const { p50, p99 } = summary.stages_ms[name];
    item.append(mark, `${name} ${number(p50, 1)}, p99 `, element("b", p99 > setup.stages[name] ? "over" : "", number(p99, 1)), ` of ${setup.stages[name].toFixed(1)}`);
    legend.append(item);
  });
  const limit = element("span", "limit", `│ deadline ${deadline} ms`);
  legend.append(limit);
  $("stages").replaceChildren(...bars, legend);
}

// --- every frame --------------------------------------------------------------------------------

// Each frame at its latency, or the worst frame of each interval; charts.js draws it. A stall does not
// flatten all else: the chart ends at four deadlines, and slower frames are on a rail, as those without a
// result are.
function pointsOf(one) {
  if (minutes === 1) return one.frames;
  return one.intervals.filter(([at]) => at > now - 60 * minutes)
    .map(([at, frames, missed, ms, status, sequence]) => [at, ms, status, sequence, frames, missed]);
}

function showChart(one) {
  const shownAt = paused?.now ?? now, points = paused?.points ?? pointsOf(one);
  const unit = minutes === 1 ? 1 : 60, deadline = setup.deadline_ms;
  const slowest = Math.max(0, ...points.map(([, ms]) => ms ?? 0));
  const top = Math.max(1.25 * deadline, Math.min(1.08 * slowest, 4 * deadline));
  const [slower, without, end] = ["slower", "without", "end"].map((name) => top * setup.places[name]);
  const x = [], values = setup.statuses.map(() => []), labels = setup.statuses.map(() => []);
  for (const [at, ms, status] of points) {
    const place = (at - shownAt) / unit;
    x.push(place);
    values.forEach((series) => series.push(null));
    values[status][x.length - 1] = ms === null ? without : ms > top ? slower : ms;
    if (ms > top) labels[status].push([place, ms.toFixed(0)]);
  }
  const begin = -WINDOW_S * minutes / unit;
  const what = minutes === 1 ? "seconds" : `minutes; each point is the worst frame of ${setup.interval_s} s`;
  const described = {
    x: { title: paused ? `${what}, before ${time(paused.wall)}: paused` : `${what}, before now`, range: zoomed ?? [begin, 0], rails: [] },
    y: { title: "ms", range: [0, end], top, rails: [[slower, `> ${top.toFixed(0)}`], [without, "no result"]] },
    tables: [[x, ...values]], spans: [], height_px: CHART_PX, legend: false,
    lines: [{ text: `deadline ${deadline} ms`, colour: colour("--deadline"), y: deadline }],
    series: setup.statuses.map(([name, tint, inTime, mark], status) => (
      { name, colour: tint, kind: "points", size: inTime ? 3 : 11, shape: inTime ? "" : mark, labels: labels[status] })),
  };
  const cursor = cursorFrame && points.find(([, , , sequence]) => sequence === cursorFrame);
  if (cursor) described.lines.push({ text: `frame ${cursor[3]}`, colour: colour("--bar"), x: (cursor[0] - shownAt) / unit });
  $("whole").hidden = !zoomed;
  if (chart) chart.show(described);
  else chart = drawChart($("chart"), described, { zoomed: zoomTo, picked: pick });
}

function pause(isOn) {
  paused = isOn ? { now, wall: Date.now(), points: [...pointsOf(cameras[chosen])] } : null;
  $("pause").setAttribute("aria-pressed", isOn);
  $("pause").textContent = isOn ? "go on" : "pause";
  showChart(cameras[chosen]);
}

function zoomTo(range) {
  zoomed = range;
  if (range && !paused) pause(true);
  else showChart(cameras[chosen]);
}

// A click at the chart: the nearest frame, as far as the pointer meant one.
function pick(x, y, distancePx) {
  const shownAt = paused?.now ?? now, unit = minutes === 1 ? 1 : 60, points = paused?.points ?? pointsOf(cameras[chosen]);
  const near = points.map((point) => [distancePx((point[0] - shownAt) / unit), point]).filter(([px]) => px < NEAR_PX);
  const missed = near.filter(([, [, , status]]) => !setup.statuses[status][2]);
  const [best] = (missed.length ? missed : near).sort((a, b) => a[0] - b[0]);
  if (best) openFrame(chosen, best[1][3]);
}

function stepCursor(by) {
  const points = (paused?.points ?? pointsOf(cameras[chosen])).filter(([, , status]) => !setup.statuses[status][2]);
  if (!points.length) return;
  const place = points.findIndex(([, , , sequence]) => sequence === cursorFrame);
  const next = place < 0 ? by < 0 ? points.length - 1 : 0 : Math.max(0, Math.min(points.length - 1, place + by));
  cursorFrame = points[next][3];
  showChart(cameras[chosen]);
}

function zoomBy(factor) {
  const whole = [-WINDOW_S * minutes / (minutes === 1 ? 1 : 60), 0], [from, to] = zoomed ?? whole;
  const middle = (from + to) / 2, half = (to - from) / 2 / factor;
  const range = [Math.max(whole[0], middle - half), Math.min(0, middle + half)];
  zoomTo(range[0] <= whole[0] && range[1] >= 0 ? null : range);
}

$("spans").onclick = ({ target }) => {
  if (!target.dataset.minutes) return;
  minutes = Number(target.dataset.minutes);
  for (const one of $("spans").children) one.setAttribute("aria-pressed", one === target);
  zoomed = null;
  pause(false);
};
$("pause").onclick = () => cameras[chosen] && pause(!paused);
$("whole").onclick = () => zoomTo(null);
$("chart").onkeydown = (event) => {
  const act = { ArrowLeft: () => stepCursor(-1), ArrowRight: () => stepCursor(1), "+": () => zoomBy(ZOOM), "-": () => zoomBy(1 / ZOOM),
    Enter: () => cursorFrame !== null && openFrame(chosen, cursorFrame) }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
};
addEventListener("keydown", ({ key, target, ctrlKey, metaKey, altKey }) => {
  if (ctrlKey || metaKey || altKey || target.closest?.("dialog") || !cameras[chosen]) return;
  if (key === "p") pause(!paused);
  if (key === "0") zoomTo(null);
});
addEventListener("dressed", () => chart?.redraw());
