// Draws the charts of a page with uPlot; report/chart.py describes what is in their data. A page may
// also call drawChart(box, chart, on), and show(chart) of what it returns when the data have changed;
// `on` may have zoomed([from, to]) and picked(x, y, distancePx).
"use strict";
(() => {
const FONT_PX = 12, FONT = `${FONT_PX}px system-ui, sans-serif`;
const PRINT_PX = 680;
let printing = false;
// On paper the colours are those of light, and a chart is as wide as the paper.
for (const [kind, isOn] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(kind, () => document.documentElement.classList.toggle("printing", printing = isOn));
}
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function ticks(read, isX) {
  const { rails, log, percent, title } = read();
  const shown = (value) => percent ? `${+(100 * value).toPrecision(3)}%` : `${value}`;
  const axis = {
    label: title, labelSize: title ? 20 : 0, labelFont: FONT, font: FONT,
    size: isX ? rails.length ? 38 : 26 : rails.length ? 68 : 48,
    stroke: () => css("--soft"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { show: false },
  };
  const isRound = (value) => /^[125]e/.test(value.toExponential(0)) && +value.toExponential(0) === value;
  if (log) axis.filter = (_, values) => values.map((value) => isRound(value) ? value : null);
  if (log || percent) axis.values = (_, values) => values.map((value) => value === null ? "" : shown(value));
  if (rails.length) {
    axis.splits = (_, __, low, high, step) => {
      const { top, rails } = read();
      const end = Math.min(top, high), first = Math.ceil(Math.max(low, 0) / step - 1e-9), found = [];
      for (let one = first; one * step <= end; one++) found.push(+(one * step).toPrecision(12));
      return [...found, ...rails.map(([at]) => at).filter((at) => at >= low && at <= high)];
    };
    axis.values = (_, values) =>
      values.map((value) => read().rails.find(([at]) => at === value)?.[1].replace("no ", isX ? "no\n" : "no ") ?? shown(value));
  }
  return axis;
}

function look(one, texts, given) {
  const { name, colour, kind, size = 2, dash, shape } = one;
  const steps = kind === "stack" || kind === "steps";
  return {
    label: shape ? `${shape} ${name}` : name, stroke: colour, width: kind === "stack" || kind === "points" ? 0 : size, dash,
    fill: kind === "stack" ? colour : undefined,
    paths: kind === "points" ? () => null : steps ? uPlot.paths.stepped({ align: 1, alignGaps: 1 }) : undefined,
    points: { show: kind === "points" && !one.shape, size, fill: colour, stroke: colour, width: 0 },
    value: (plot, _, series, place) => {
      const value = place === null ? null : given[series][place];
      if (value === null || value === undefined) return "";
      const text = texts.get(plot.data[0][place]) ?? "";
      return `${+value.toPrecision(4)}${text && " "}${text}`;
    },
  };
}

function write(pen, text, x, y, area, right) {
  const wide = pen.measureText(text).width;
  const fits = right ? x + wide < area.left + area.width : x - wide < area.left;
  pen.textAlign = fits ? "left" : "right";
  const at = x + (fits ? 1 : -1) * 5 * devicePixelRatio;
  pen.save();
  pen.strokeStyle = css("--card");
  pen.lineWidth = 4 * devicePixelRatio;
  pen.setLineDash([]);
  pen.strokeText(text, at, y);
  pen.restore();
  pen.fillText(text, at, y);
}

const join = ({ tables }) => tables.length ? uPlot.join(tables) : [[]];  // a chart without a series

function make(box, chart, on = {}) {
  const data = join(chart), given = data.map((values) => [...values]), bands = [], dense = devicePixelRatio;
  const highest = chart.y.top ?? Infinity;  // rails are not for stacks
  let below = 0;
  chart.series.forEach(({ kind, colour }, place) => {
    if (kind !== "stack") return;
    data[place + 1] = data[place + 1].map((value, at) => value === null || value === undefined
      ? value : Math.min(value + (below ? data[below][at] ?? 0 : 0), highest));
    if (below) bands.push({ series: [place + 1, below], fill: colour });
    below = place + 1;
  });

  const shade = (plot) => {
    const { ctx: pen, bbox: area } = plot;
    pen.save();
    pen.font = `${FONT_PX * dense}px system-ui, sans-serif`;
    pen.fillStyle = css("--soft");
    for (const { begin, end, text } of chart.spans) {
      const [from, to] = [begin, end].map((at) => plot.valToPos(at, "x", true));
      pen.globalAlpha = 0.18;
      pen.fillRect(from, area.top, Math.max(to - from, 2 * dense), area.height);
      pen.globalAlpha = 1;
      const y = chart.y.top === null ? area.top : plot.valToPos(chart.y.top, "y", true);
      write(pen, text, from, y + FONT_PX * dense, area, true);
    }
    pen.restore();
  };
  const mark = (plot) => {
    const { ctx: pen, bbox: area } = plot;
    pen.save();
    pen.font = `${FONT_PX * dense}px system-ui, sans-serif`;
    chart.lines.forEach(({ text, colour, x, y }, place) => {
      pen.strokeStyle = pen.fillStyle = colour || css("--soft");
      pen.lineWidth = (colour ? 2 : 1) * dense;
      pen.setLineDash(colour ? [6 * dense, 4 * dense] : []);
      const at = x === undefined ? plot.valToPos(y, "y", true) : plot.valToPos(x, "x", true);
      pen.beginPath();
      pen.moveTo(...(x === undefined ? [area.left, at] : [at, area.top]));
      pen.lineTo(...(x === undefined ? [area.left + area.width, at] : [at, area.top + area.height]));
      pen.stroke();
      if (x === undefined) write(pen, text, area.left + area.width, at - 5 * dense, area, false);
      else write(pen, text, at, area.top + (place + 1) * 1.2 * FONT_PX * dense, area, true);
    });
    if (chart.x.is_drive && shownAt !== null) {
      const at = plot.valToPos(shownAt, "x", true);
      pen.fillStyle = css("--ink");
      pen.fillRect(at - dense / 2, area.top, dense, area.height);
    }
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    chart.series.forEach(({ shape, size, colour }, place) => {
      if (!shape || !plot.series[place + 1].show) return;
      pen.fillStyle = colour;
      pen.font = `${1.35 * size * dense}px system-ui, sans-serif`;
      plot.data[place + 1].forEach((value, at) => {
        const x = value === null || value === undefined ? -1 : plot.valToPos(plot.data[0][at], "x", true);
        if (x >= area.left && x <= area.left + area.width) pen.fillText(shape, x, plot.valToPos(value, "y", true));
      });
    });
    pen.textBaseline = "alphabetic";
    pen.font = `${FONT_PX * dense}px system-ui, sans-serif`;
    pen.fillStyle = css("--ink");
    const taken = [];
    const written = chart.series.flatMap(({ labels = [] }, one) => labels.map(([x, text]) => [x, text, one + 1]));
    for (const [x, text, series] of written.sort((a, b) => b[1] - a[1])) {  // the slowest first
      const at = plot.valToPos(x, "x", true), wide = pen.measureText(text).width / 2 + 2 * dense;
      if (at < area.left || at > area.left + area.width) continue;
      if (taken.some(([from, to]) => at - wide < to && at + wide > from)) continue;
      taken.push([at - wide, at + wide]);
      const value = plot.data[series][plot.data[0].indexOf(x)];
      pen.fillText(text, at, plot.valToPos(value, "y", true) - 5 * dense);
    }
    pen.restore();
  };

  let shownAt = null;
  if (chart.x.is_drive) {
    on = { ...on, picked: (x) => dispatchEvent(new CustomEvent("drive-picked", { detail: x })) };
    addEventListener("drive-shown", ({ detail }) => {
      shownAt = detail;
      plot.redraw(false);
    });
  }
  const size = () => ({ width: Math.min(box.clientWidth, printing ? PRINT_PX : Infinity), height: chart.height_px });
  const scale = ({ range, log }) => ({ time: false, distr: log ? 3 : 1, ...(range && { range: [...range] }) });
  const plot = new uPlot({
    ...size(), bands, padding: [8, 14, 0, 4],
    legend: { show: chart.legend ?? true, markers: { width: 0, fill: (_, series) => chart.series[series - 1]?.colour } },
    cursor: { y: false, points: { show: false }, drag: { setScale: !on.zoomed } },
    scales: { x: scale(chart.x), y: scale(chart.y) },
    axes: [ticks(() => chart.x, true), ticks(() => chart.y, false)],
    series: [{ label: chart.x.title, value: (_, value) => value === null ? "" : +value.toPrecision(6) },
      ...chart.series.map((one) => look(one, new Map(one.texts), given))],
    hooks: { drawAxes: [shade], draw: [mark], setSelect: on.zoomed ? [({ select: { left, width } }) => {
      if (!width) return;
      plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      on.zoomed([left, left + width].map((px) => plot.posToVal(px, "x")));
    }] : [] },
  }, data, box);
  if (on.picked) {
    let pressedPx = 0;
    plot.over.addEventListener("mousedown", ({ offsetX }) => pressedPx = offsetX);
    plot.over.addEventListener("click", ({ offsetX, offsetY }) => {
      if (Math.abs(offsetX - pressedPx) > 4) return;
      on.picked(plot.posToVal(offsetX, "x"), plot.posToVal(offsetY, "y"), (x) => Math.abs(plot.valToPos(x, "x") - offsetX));
    });
  }
  const fit = () => plot.setSize(size());
  new ResizeObserver(fit).observe(box);
  addEventListener("beforeprint", fit);
  addEventListener("afterprint", fit);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot.redraw());
  plot.show = (changed) => {
    chart = changed;
    plot.batch(() => {
      plot.setData(join(chart), false);
      for (const axis of ["x", "y"]) plot.setScale(axis, { min: chart[axis].range[0], max: chart[axis].range[1] });
    });
  };
  return plot;
}

window.drawChart = make;
for (const box of document.querySelectorAll(".chart")) make(box, JSON.parse(box.querySelector("script").textContent));
})();
