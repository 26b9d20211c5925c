// Hovering over a chart shows the values of the nearest step in its caption.
"use strict";
const short = (v) => {
  const a = Math.abs(v);
  return v === 0 ? "0" : a >= 1e4 || a < 1e-3 ? v.toExponential(2) : String(+v.toPrecision(4));
};
for (const card of document.querySelectorAll("[data-series]")) {
  const svg = card.querySelector("svg"), read = card.querySelector(".read"), cross = card.querySelector(".cross");
  const series = JSON.parse(card.dataset.series), rest = read.textContent;
  const [x0, x1, left, right, width] = card.dataset.x.split(",").map(Number);
  svg.addEventListener("pointermove", (e) => {
    const box = svg.getBoundingClientRect();
    const at = x0 + (((e.clientX - box.left) / box.width) * width - left) / (right - left) * (x1 - x0);
    const near = series.map((s) => s.p.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a)));
    const step = near[0][0], px = left + ((step - x0) / (x1 - x0)) * (right - left);
    cross.setAttribute("x1", px);
    cross.setAttribute("x2", px);
    cross.setAttribute("visibility", "visible");
    read.textContent = `step ${step}: ` + near.map((p, i) =>
      (series.length > 1 ? series[i].n + " " : "") + short(p[1]) + (p[0] === step ? "" : ` (step ${p[0]})`)).join(", ");
  });
  svg.addEventListener("pointerleave", () => {
    cross.setAttribute("visibility", "hidden");
    read.textContent = rest;
  });
}
