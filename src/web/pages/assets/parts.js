// Small parts that the page is made of: elements, numbers and times as people read them, questions to
// the server. Text from runs becomes text nodes and attribute values only, never markup.

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

export function number(v) {
  if (v === null || v === undefined || Number.isNaN(v)) return "–";
  const a = Math.abs(v);
  if (v === 0) return "0";
  if (a >= 1e6) return v.toExponential(2);
  if (a >= 1e4) return (v / 1e3).toFixed(1) + "k";
  if (a < 1e-3) return v.toExponential(1);
  return String(+v.toPrecision(4));
}

export function bytes(v) {
  if (v === null || v === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (Math.abs(v) >= 1024 && unit + 1 < units.length) { v /= 1024; unit += 1; }
  return (unit === 0 ? String(Math.round(v)) : +v.toFixed(v < 10 ? 2 : 1)) + " " + units[unit];
}

export function seconds(v) {
  if (v === null || v === undefined) return "–";
  if (v < 1) return v === 0 ? "0" : (v * 1000).toFixed(v < 0.01 ? 1 : 0) + " ms";
  if (v < 60) return +v.toPrecision(3) + " s";
  return duration(v);
}

export function duration(v) {
  const d = Math.floor(v / 86400), hours = Math.floor(v / 3600) % 24, m = Math.floor(v / 60) % 60, sec = Math.floor(v % 60);
  if (d > 0) return `${d} d ${hours} h`;
  if (hours > 0) return `${hours} h ${String(m).padStart(2, "0")} min`;
  return m > 0 ? `${m} min ${String(sec).padStart(2, "0")} s` : `${sec} s`;
}

export function ago(text) {
  const then = Date.parse(text);
  if (Number.isNaN(then)) return "";
  const v = Math.max(0, (Date.now() - then) / 1000);
  return v < 5 ? "now" : duration(v) + " ago";
}

export function moment(text) {
  const then = new Date(text);
  if (Number.isNaN(then.getTime())) return "–";
  return then.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

export async function ask(path) {
  const answer = await fetch(path, { credentials: "same-origin" });
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(body?.error?.message ?? `the server answered ${answer.status}`);
  return body;
}

// A curve without axes, for lists.
export function spark(values, width = 120, height = 28) {
  const svg = s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  if (values.length < 2) return svg;
  const low = Math.min(...values), high = Math.max(...values);
  const x = (i) => 2 + (i / (values.length - 1)) * (width - 4);
  const y = (v) => (high > low ? height - 3 - ((v - low) / (high - low)) * (height - 6) : height / 2);
  const points = values.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`);
  svg.append(
    s("polygon", { class: "under", points: `${x(0)},${height} ${points.join(" ")} ${x(values.length - 1)},${height}` }),
    s("polyline", { points: points.join(" ") }),
  );
  return svg;
}

export function badge(state) {
  return h("span", { class: `badge ${state}` }, state);
}
