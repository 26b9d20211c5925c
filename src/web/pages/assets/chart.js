// Charts as SVG: lines with a faint raw course below a smooth one, and stacked bars. A chart shows the
// values under the pointer. Values that are missing leave a gap in nothing but the data.

import { h, s, number } from "/parts.js";

const WIDTH = 372, HEIGHT = 190, LEFT = 50, RIGHT = 12, TOP = 8, BOTTOM = 24;

function ticks(low, high, wanted) {
  const raw = (high - low) / wanted;
  if (!(raw > 0) || !Number.isFinite(raw)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw)), unit = raw / power;
  const step = power * (unit < 1.5 ? 1 : unit < 3.5 ? 2 : unit < 7.5 ? 5 : 10);
  const out = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) {
    out.push(Math.abs(v) < step * 1e-6 ? 0 : +v.toPrecision(12));
  }
  return out;
}

// The vertical axis: plain, or by powers of ten. Values that have no logarithm are not drawn. Bytes have
// round marks in binary units.
function scale(values, log, binary) {
  const known = values.filter((v) => v !== null && v !== undefined && Number.isFinite(v) && (!log || v > 0));
  if (known.length === 0) return null;
  const to = log ? Math.log10 : (v) => v;
  let low = Infinity, high = -Infinity;
  for (const v of known) { const t = to(v); if (t < low) low = t; if (t > high) high = t; }
  if (low === high) {
    const room = low === 0 ? 1 : Math.abs(low) * 0.5;
    [low, high] = low === 0 && !log ? [0, 1] : [low - room, high + room];
  } else {
    const room = (high - low) * 0.06;
    low = low === 0 && !log ? 0 : low - room;
    high = high === 0 && !log ? 0 : high + room;
  }
  const px = (t) => TOP + ((high - t) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  let unit = 1;
  while (binary && unit * 1024 <= high) unit *= 1024;
  const marks = ticks(low / unit, high / unit, 4).map((t) => t * unit).filter((t) => !log || high - low < 1.5 || Number.isInteger(t));
  return {
    y: (v) => (v === null || v === undefined || (log && v <= 0) || !Number.isFinite(v) ? null : px(to(v))),
    marks: marks.map((t) => ({ at: px(t), value: log ? 10 ** t : t })),
  };
}

// Exponential mean without the pull towards zero at its start (as TensorBoard smooths).
function smoothed(values, weight) {
  let sum = 0, norm = 0;
  return values.map((v) => {
    if (v === null || v === undefined) return null;
    sum = sum * weight + v * (1 - weight);
    norm = norm * weight + (1 - weight);
    return sum / norm;
  });
}

function line(xs, ys, x, y) {
  let d = "";
  for (let i = 0; i < xs.length; i += 1) {
    const at = y(ys[i]);
    if (at !== null) d += `${d ? "L" : "M"}${x(xs[i]).toFixed(1)} ${at.toFixed(1)}`;
  }
  return d;
}

function band(series, x, y) {
  const up = [], down = [];
  series.x.forEach((at, i) => {
    const low = y(series.low[i]), high = y(series.high[i]);
    if (low === null || high === null) return;
    up.push(`${x(at).toFixed(1)} ${high.toFixed(1)}`);
    down.unshift(`${x(at).toFixed(1)} ${low.toFixed(1)}`);
  });
  return up.length > 1 ? `M${up.concat(down).join("L")}Z` : "";
}

function frame(title, xs, ys, options) {
  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  const show = options.format ?? number, showX = options.formatX ?? number;
  for (const { at, value } of ys.marks) {
    svg.append(
      s("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: at.toFixed(1), y2: at.toFixed(1) }),
      s("text", { class: "ylab", x: LEFT - 7, y: (at + 3.5).toFixed(1) }, show(value)),
    );
  }
  for (const v of ticks(xs.low, xs.high, 5)) {
    svg.append(s("text", { class: "xlab", x: xs.x(v).toFixed(1), y: HEIGHT - 8 }, showX(v)));
  }
  svg.append(s("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
  return svg;
}

function across(values, room = 0) {
  let low = Infinity, high = -Infinity;
  for (const v of values) { if (v < low) low = v; if (v > high) high = v; }
  if (low === high) { low -= 1; high += 1; }
  low -= room; high += room;
  return { low, high, x: (v) => LEFT + ((v - low) / (high - low)) * (WIDTH - LEFT - RIGHT) };
}

// What is under the pointer: `rows(x)` gives where to mark and lines of [color, name, value].
function readout(card, svg, xs, rows) {
  const cross = s("line", { class: "cross", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  const dots = s("g", {});
  svg.append(cross, dots);
  const tip = h("div", { class: "tip", hidden: true });
  card.append(tip);
  svg.addEventListener("pointermove", (e) => {
    const box = svg.getBoundingClientRect();
    const units = ((e.clientX - box.left) / box.width) * WIDTH;
    const found = rows(xs.low + ((units - LEFT) / (WIDTH - LEFT - RIGHT)) * (xs.high - xs.low));
    if (!found) return;
    const px = xs.x(found.at);
    cross.setAttribute("x1", px);
    cross.setAttribute("x2", px);
    cross.setAttribute("visibility", "visible");
    dots.replaceChildren(...found.lines.filter((l) => l.y !== undefined && l.y !== null)
      .map((l) => s("circle", { class: `dot f${l.color}`, cx: xs.x(l.x ?? found.at), cy: l.y, r: 3.5 })));
    tip.replaceChildren(h("b", {}, found.title), ...found.lines.map((l) =>
      h("div", {}, h("i", { class: `b${l.color}` }), h("span", {}, l.name), h("em", {}, l.value))));
    tip.hidden = false;
    const room = card.getBoundingClientRect(), left = box.left - room.left + (px / WIDTH) * box.width;
    const right = left > room.width / 2;
    tip.style.left = right ? "auto" : `${left + 12}px`;
    tip.style.right = right ? `${room.width - left + 12}px` : "auto";
    tip.style.top = `${box.top - room.top + 6}px`;
  });
  svg.addEventListener("pointerleave", () => {
    cross.setAttribute("visibility", "hidden");
    dots.replaceChildren();
    tip.hidden = true;
  });
}

function caption(title, value, legend) {
  const named = legend.length > 1 && h("div", { class: "legend" }, legend.map(([color, name]) =>
    h("span", {}, h("i", { class: `b${color}` }), name)));
  return [h("figcaption", {}, h("b", { title }, title), h("span", { class: "now" }, value)), named];
}

// Lines. Series: {name, color, x, y, low?, high?}; options: smooth (0..1), log, format, formatX, nameX.
export function lineChart(title, series, options = {}) {
  const drawn = series.filter((one) => one.y.some((v) => v !== null && v !== undefined));
  if (drawn.length === 0) return null;
  const smooth = options.smooth ?? 0, show = options.format ?? number;
  const edges = drawn.flatMap((one) => (one.low?.length && drawn.length === 1 ? one.low.concat(one.high) : one.y));
  const ys = scale(options.binary ? [0, ...edges] : edges, options.log, options.binary);
  const card = h("figure", { class: "card chart" });
  const lasts = drawn.map((one) => one.y.findLast((v) => v !== null && v !== undefined));
  card.append(...caption(title, drawn.length === 1 ? show(lasts[0]) : "", options.legend === false ? [] : drawn.map((o) => [o.color, o.name])).filter(Boolean));
  if (!ys) {
    card.append(h("p", { class: "soft" }, "Nothing above zero to draw by powers of ten."));
    return card;
  }
  const xs = across(drawn.flatMap((one) => one.x));
  const svg = frame(title, xs, ys, options);
  for (const one of drawn) {
    const raw = line(one.x, one.y, xs.x, ys.y), count = one.y.filter((v) => v !== null).length;
    if (one.low?.length && drawn.length === 1) svg.append(s("path", { class: `band f${one.color}`, d: band(one, xs.x, ys.y) }));
    if (count === 1) {
      const i = one.y.findIndex((v) => v !== null);
      if (ys.y(one.y[i]) !== null) svg.append(s("circle", { class: `f${one.color}`, cx: xs.x(one.x[i]), cy: ys.y(one.y[i]), r: 4 }));
    } else if (smooth > 0 && count > 4) {
      svg.append(s("path", { class: `raw s${one.color}`, d: raw }));
      svg.append(s("path", { class: `line s${one.color}`, d: line(one.x, smoothed(one.y, smooth), xs.x, ys.y) }));
    } else {
      svg.append(s("path", { class: `line s${one.color}`, d: raw }));
    }
  }
  card.append(svg);
  readout(card, svg, xs, (at) => {
    const near = drawn.map((one) => nearest(one, at));
    const best = near.reduce((a, b) => (Math.abs(b.x - at) < Math.abs(a.x - at) ? b : a));
    const showX = options.formatX ?? number;
    return {
      at: best.x,
      title: `${options.nameX ?? "step"} ${showX(best.x)}`,
      lines: near.map((n, i) => ({
        color: drawn[i].color, name: drawn.length > 1 ? drawn[i].name : "", x: n.x, y: ys.y(n.y),
        value: show(n.y) + (n.low !== undefined && n.low !== null ? `  (${show(n.low)} to ${show(n.high)})` : ""),
      })),
    };
  });
  return card;
}

function nearest(one, at) {
  let best = -1;
  for (let i = 0; i < one.x.length; i += 1) {
    if (one.y[i] === null || one.y[i] === undefined) continue;
    if (best < 0 || Math.abs(one.x[i] - at) < Math.abs(one.x[best] - at)) best = i;
  }
  return { x: one.x[best], y: one.y[best], low: one.low?.[best], high: one.high?.[best] };
}

// Stacked bars. Parts: {name, color, y}, all as long as `x`.
export function barChart(title, x, parts, options = {}) {
  const most = 64, size = Math.max(1, Math.ceil(x.length / most));
  const bins = [];
  for (let i = 0; i < x.length; i += size) {
    const values = parts.map((p) => {
      const known = p.y.slice(i, i + size).filter((v) => v !== null && v !== undefined);
      return known.length ? Math.max(0, known.reduce((a, b) => a + b, 0) / known.length) : 0;
    });
    const sum = values.reduce((a, b) => a + b, 0);
    if (sum > 0) bins.push({ x: x[Math.min(i + size, x.length) - 1], values, sum });
  }
  if (bins.length === 0) return null;
  const show = options.format ?? number;
  const ys = scale([0, ...bins.map((b) => b.sum)], false);
  const xs = across(bins.map((b) => b.x), bins.length > 1 ? ((bins[bins.length - 1].x - bins[0].x) / bins.length) * 0.6 : 0);
  const mean = bins.reduce((a, b) => a + b.sum, 0) / bins.length;
  const card = h("figure", { class: "card chart" });
  card.append(...caption(title, `${show(mean)} on average`, parts.map((p) => [p.color, p.name])).filter(Boolean));
  const svg = frame(title, xs, ys, options);
  const gap = Math.max(1.5, Math.min(26, ((WIDTH - LEFT - RIGHT) / bins.length) * 0.78));
  for (const bin of bins) {
    let base = 0;
    bin.values.forEach((v, i) => {
      const top = ys.y(base + v), bottom = ys.y(base);
      if (v > 0) svg.append(s("rect", { class: `f${parts[i].color}`, x: (xs.x(bin.x) - gap / 2).toFixed(2), width: gap.toFixed(2), y: top.toFixed(2), height: Math.max(0.3, bottom - top).toFixed(2) }));
      base += v;
    });
  }
  card.append(svg);
  readout(card, svg, xs, (at) => {
    const bin = bins.reduce((a, b) => (Math.abs(b.x - at) < Math.abs(a.x - at) ? b : a));
    const lines = bin.values.map((v, i) => ({ color: parts[i].color, name: parts[i].name, value: show(v) }));
    return { at: bin.x, title: `${options.nameX ?? "step"} ${(options.formatX ?? number)(bin.x)}: ${show(bin.sum)}`, lines: lines.filter((l, i) => bin.values[i] > 0).reverse() };
  });
  return card;
}
