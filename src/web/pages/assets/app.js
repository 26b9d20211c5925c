// The page of runs: which are chosen stands in the address (#/KEY,KEY/tab), what they say is asked for
// again while they change. Everything is drawn from what the server answers; nothing is kept but tastes.

import { h, number, bytes, seconds, duration, ago, moment, ask, spark, badge } from "/parts.js";
import { lineChart, barChart } from "/chart.js";

const TABS = [["curves", "Curves"], ["samples", "Samples"], ["time", "Time and memory"], ["settings", "Settings"], ["log", "Log"]];
const POLL = 2000, COLORS = 8, MOST = 8;
const main = document.getElementById("main"), list = document.getElementById("list");

const taste = { smooth: 0.7, time: false, log: false, ...JSON.parse(localStorage.getItem("grpo-rt") ?? "{}") };
const state = { runs: [], filter: "", wanted: "", chosen: [], tab: "curves", seen: "", details: new Map(), curves: new Map(), compare: null, from: 0, asked: 0, log: null, open: new Set() };

function keep() { localStorage.setItem("grpo-rt", JSON.stringify(taste)); }
function address(keys, tab) { return keys.length ? `#/${keys.join(",")}/${tab}` : "#/"; }
function color(key) { return Math.max(0, state.chosen.indexOf(key)) % COLORS; }
function entry(key) { return state.runs.find((r) => r.key === key); }
function title(run) {
  const twice = state.runs.filter((r) => r.run_id === run.run_id).length > 1;
  return twice ? `${run.run_id} (${run.dir})` : run.run_id;
}

// The list at the side.

function progress(run) {
  if (run.state !== "running" || !run.max_steps) return null;
  return h("progress", { max: run.max_steps, value: Math.min(run.step, run.max_steps), "aria-label": "steps done" });
}

function item(run) {
  const on = state.chosen.includes(run.key);
  const toggle = (e) => {
    e.stopPropagation();
    const rest = state.chosen.filter((k) => k !== run.key);
    location.hash = address(on ? rest : [...rest, run.key].slice(-MOST), state.tab);
  };
  const steps = run.max_steps ? `${run.step}/${run.max_steps}` : `${run.step} steps`;
  const figure = run.last === null ? "" : ` · ${run.figure} ${number(run.last)}`;
  return h("div", { class: `item${on ? " on" : ""}`, role: "listitem", onclick: () => { location.hash = address([run.key], state.tab); } },
    h("input", { type: "checkbox", class: `m${color(run.key)}`, checked: on, onclick: toggle, "aria-label": `compare ${run.run_id}` }),
    h("a", { href: address([run.key], state.tab), title: run.dir, onclick: (e) => e.stopPropagation() }, run.run_id),
    badge(run.state),
    h("small", {}, steps + figure),
    progress(run));
}

function drawList() {
  const wanted = state.filter.toLowerCase();
  const shown = state.runs.filter((r) => `${r.run_id} ${r.run_name ?? ""} ${r.state} ${r.model} ${r.dir}`.toLowerCase().includes(wanted));
  list.replaceChildren(...shown.map(item));
  if (shown.length === 0) list.append(h("p", { class: "soft" }, state.runs.length ? "No run matches." : "No runs here yet."));
}

// All runs.

function overview() {
  if (state.runs.length === 0) {
    return [h("h1", {}, "No runs yet"), h("p", { class: "sub" }, "Runs appear here as they start: grpo-rt train --output_dir …")];
  }
  const count = (name) => state.runs.filter((r) => r.state === name).length;
  const said = ["running", "done", "failed", "stopped"].filter(count).map((n) => `${count(n)} ${n}`).join(", ");
  const head = ["Run", "State", "Step", "Reward", "Best", "", "Started", "Time", "Model"];
  const row = (run) => h("tr", { "data-key": run.key, onclick: () => { location.hash = address([run.key], "curves"); } },
    h("td", {}, h("a", { href: address([run.key], "curves"), onclick: (e) => e.stopPropagation() }, run.run_id), h("small", {}, run.dir)),
    h("td", {}, badge(run.state)),
    h("td", { class: "num" }, run.max_steps ? `${run.step} / ${run.max_steps}` : String(run.step)),
    h("td", { class: "num" }, run.figure === "loss" && run.last !== null ? `loss ${number(run.last)}` : number(run.last)),
    h("td", { class: "num" }, number(run.best)),
    h("td", {}, spark(run.line)),
    h("td", {}, moment(run.started)),
    h("td", { class: "num" }, duration(run.seconds)),
    h("td", {}, run.model.replace(/\/+$/, "").split("/").pop()));
  return [h("h1", {}, `${state.runs.length} ${state.runs.length === 1 ? "run" : "runs"}`), h("p", { class: "sub" }, said),
    h("div", { class: "card scroll" }, h("table", { class: "runs" }, h("thead", {}, h("tr", {}, head.map((t, i) => h("th", { class: [2, 3, 4, 7].includes(i) ? "num" : "" }, t)))), h("tbody", {}, state.runs.map(row)))),
    h("p", { class: "soft" }, "Tick several at the side to lay their curves over each other.")];
}

// The chosen runs.

function tile(name, value, small) {
  return h("div", { class: "tile" }, h("span", {}, name), h("b", {}, value, small ? h("small", {}, " " + small) : null));
}

function lastOf(key, name) {
  return state.details.get(key)?.figures.find((f) => f.name === name)?.last;
}

function heading() {
  const runs = state.chosen.map(entry).filter(Boolean);
  if (runs.length !== 1) {
    return [h("h1", {}, `${runs.length} runs side by side`),
      h("p", { class: "sub legend" }, runs.map((r) => h("span", {}, h("i", { class: `b${color(r.key)}` }), title(r), " ", badge(r.state))))];
  }
  const run = runs[0], left = run.max_steps - run.step;
  const perStep = lastOf(run.key, "step_time");
  const rate = lastOf(run.key, "perf/rollout_tokens_per_second"), tokens = lastOf(run.key, "num_tokens");
  const eta = run.state === "running" && left > 0 && perStep ? duration(left * perStep) : null;
  return [
    h("h1", {}, run.run_id, badge(run.state)),
    h("p", { class: "sub" }, [run.run_name, run.model, `started ${moment(run.started)}`, `last sign of life ${ago(run.updated)}`].filter(Boolean).join(" · ")),
    run.note ? h("p", { class: `note ${run.state}` }, run.note) : null,
    (state.details.get(run.key)?.alerts ?? []).slice(-6).map((a) => h("p", { class: `note ${a.state}` }, h("b", {}, `step ${a.step}: `), `${a.message}${a.state && a.state !== "begun" ? ` (${a.state})` : ""}`, a.advice ? h("span", { class: "soft" }, ` ${a.advice}`) : null)),
    h("div", { class: "tiles" },
      tile("step", String(run.step), run.max_steps ? `of ${run.max_steps}` : ""),
      tile(run.figure === "loss" ? "loss" : "reward", number(run.last), `best ${number(run.best)}`),
      tokens === undefined ? null : tile("tokens", number(tokens)),
      rate === undefined ? null : tile("rollout", number(rate), "tokens/s"),
      tile("time", duration(run.seconds)),
      eta ? tile("left", eta) : null),
  ].flat();
}

function tabs() {
  return h("nav", { class: "tabs" }, TABS.map(([id, name]) =>
    h("a", { href: address(state.chosen, id), class: id === state.tab ? "on" : "" }, name)));
}

function choice(labels, at, set) {
  return h("span", { class: "switch" }, labels.map((label, i) =>
    h("button", { type: "button", class: i === at ? "on" : "", onclick: () => { set(i); keep(); draw(); } }, label)));
}

function tools() {
  const shown = h("output", {}, taste.smooth.toFixed(2));
  const slide = (e) => { taste.smooth = Number(e.target.value); shown.textContent = taste.smooth.toFixed(2); keep(); drawCurves(); };
  const find = (e) => { state.wanted = e.target.value; drawCurves(); };
  return h("div", { class: "tools" },
    h("label", {}, "Smoothing", h("input", { id: "smooth", type: "range", min: 0, max: 0.99, step: 0.01, value: taste.smooth, oninput: slide }), shown),
    choice(["Steps", "Time"], taste.time ? 1 : 0, (i) => { taste.time = i === 1; }),
    choice(["Linear", "Log"], taste.log ? 1 : 0, (i) => { taste.log = i === 1; }),
    h("input", { type: "search", placeholder: "Find a figure", value: state.wanted, oninput: find, "aria-label": "Find a figure" }));
}

// Where a figure belongs: section, and whether it is one of those that everybody looks at.
function place(name) {
  if (name === "epoch" || name === "num_tokens") return ["Other", false];
  if (name.startsWith("eval_")) return ["Evaluation", /reward|accuracy/.test(name)];
  if (/^reward(s\/|_std|$)|frac_reward/.test(name)) return ["Rewards", !/\/std$|rewards\/failed/.test(name)];
  if (name.startsWith("completions/")) return ["Completions", /mean_length|clipped/.test(name)];
  if (/^(loss|kl|entropy|grad_norm|learning_rate|clip_ratio|sampling|beta|policy)/.test(name)) return ["Policy", /^(loss|kl|entropy|grad_norm|learning_rate)$/.test(name)];
  if (/^(step_time|perf\/|device\/)/.test(name)) return ["Speed", name !== "perf/recomputed_gflop"];
  if (/^(time|memory)\//.test(name)) return null;
  return ["Other", false];
}

const SECTIONS = ["Rewards", "Evaluation", "Policy", "Completions", "Speed", "Other"];

function seriesOf(name) {
  return state.chosen.map((key) => {
    const thin = state.curves.get(key), run = entry(key);
    const column = thin?.columns.find((c) => c.name === name);
    if (!column || !run) return null;
    const x = taste.time ? thin.seconds : thin.step;
    return { name: title(run), color: color(key), x, y: column.mean, low: column.low, high: column.high };
  }).filter(Boolean);
}

function curve(name) {
  const series = seriesOf(name);
  if (name === "completions/mean_length" && series.length === 1) {
    const [low] = seriesOf("completions/min_length"), [high] = seriesOf("completions/max_length");
    if (low && high) Object.assign(series[0], { low: low.low.length ? low.low : low.y, high: high.high.length ? high.high : high.y });
  }
  return lineChart(name, series, { smooth: taste.smooth, log: taste.log, legend: false, ...axis() });
}

function axis() {
  return taste.time ? { formatX: seconds, nameX: "after" } : { nameX: "step" };
}

function drawCurves() {
  const box = document.getElementById("curves");
  if (!box) return;
  const names = [...new Set(state.chosen.flatMap((k) => state.curves.get(k)?.columns.map((c) => c.name) ?? []))];
  const wanted = state.wanted.toLowerCase();
  const parts = SECTIONS.map((section) => {
    const mine = names.filter((n) => place(n)?.[0] === section && n.toLowerCase().includes(wanted));
    const first = mine.filter((n) => wanted || place(n)[1]), rest = mine.filter((n) => !first.includes(n));
    const charts = first.map(curve).filter(Boolean);
    const more = rest.length ? folded(section, rest) : null;
    return charts.length || more ? h("section", {}, h("h2", {}, section), h("div", { class: "charts" }, charts), more) : null;
  }).filter(Boolean);
  box.replaceChildren(...parts);
  if (parts.length === 0) box.append(h("p", { class: "empty" }, names.length ? "No figure matches." : "No figures yet."));
}

// Charts that are drawn when somebody wants to see them.
function folded(section, names) {
  const inner = h("div", { class: "charts" });
  const show = () => inner.replaceChildren(...names.map(curve).filter(Boolean));
  const open = state.open.has(section);
  const box = h("details", { class: "more", open }, h("summary", {}, `${names.length} more`), inner);
  box.addEventListener("toggle", () => {
    if (box.open) { state.open.add(section); show(); } else state.open.delete(section);
  });
  if (open) show();
  return box;
}

function timePage() {
  return state.chosen.flatMap((key) => {
    const thin = state.curves.get(key), run = entry(key);
    if (!thin || !run) return [];
    const x = taste.time ? thin.seconds : thin.step;
    const named = (prefix) => thin.columns.filter((c) => c.name.startsWith(prefix));
    const phases = named("time/").map((c, i) => ({ name: c.name.slice(5).replaceAll("_", " "), color: i % COLORS, y: c.mean }));
    const memory = named("memory/").map((c, i) => ({ name: c.name.slice(7).replaceAll("_", " "), color: i % COLORS, x, y: c.mean }));
    const device = named("device/memory").map((c) => ({ name: "in use on the device", color: 6, x, y: c.mean }));
    const step = thin.columns.find((c) => c.name === "step_time");
    const charts = [
      barChart("Seconds per step", x, phases, { format: seconds, ...axis() }),
      lineChart("Memory", [...memory, ...device], { format: bytes, binary: true, ...axis() }),
      step && lineChart("Step time", [{ name: "step time", color: 0, x, y: step.mean, low: step.low, high: step.high }], { format: seconds, smooth: taste.smooth, ...axis() }),
    ].filter(Boolean);
    const shares = phases.map((p) => [p, mean(p.y)]).filter(([, v]) => v > 0), all = shares.reduce((a, [, v]) => a + v, 0);
    const table = shares.length ? h("div", { class: "card" }, h("table", {},
      h("tr", {}, h("th", {}, "phase"), h("th", { class: "num" }, "mean"), h("th", { class: "num" }, "share")),
      shares.map(([p, v]) => h("tr", {}, h("td", {}, h("i", { class: `key b${p.color}` }), p.name), h("td", { class: "num" }, seconds(v)), h("td", { class: "num" }, `${((100 * v) / all).toFixed(1)} %`))))) : null;
    return [state.chosen.length > 1 ? h("h2", {}, title(run)) : null, charts.length ? h("div", { class: "charts wide" }, charts, table) : h("p", { class: "empty" }, "No times yet.")];
  });
}

function mean(values) {
  const known = values.filter((v) => v !== null);
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : 0;
}

// Samples of the first chosen run.

function completion(c) {
  const way = c.advantage > 0 ? "up" : c.advantage < 0 ? "down" : "";
  const sign = way === "up" ? "▲ +" : way === "down" ? "▼ " : "";
  return h("div", { class: `said ${way}` },
    h("div", { class: "chips" },
      h("span", {}, "advantage ", h("b", { class: "adv" }, sign + (c.advantage === null ? "–" : +c.advantage.toFixed(3)))),
      h("span", {}, "reward ", h("b", {}, number(c.total))),
      c.rewards.map(([name, v]) => h("span", {}, name + " ", h("b", {}, number(v)))),
      h("span", {}, `${c.tokens} tokens`)),
    h("pre", {}, c.text));
}

function group(key, g) {
  const images = Array.from({ length: g.images }, (_, i) =>
    h("img", { src: `/api/runs/${key}/samples/${g.index}/images/${i}`, alt: "image of the prompt", loading: "lazy" }));
  return h("article", { class: "group" },
    h("div", {}, images, h("h3", {}, `Step ${g.step}, prompt`), h("p", {}, g.prompt), g.answer ? [h("h3", {}, "Reference answer"), h("p", {}, g.answer)] : null),
    h("div", {}, g.completions.map(completion)));
}

async function samplesPage(box) {
  const key = state.chosen[0];
  const found = await ask(`/api/runs/${key}/samples?from=${state.from}`);
  const move = (by) => () => { state.from = Math.max(0, state.from + by); show(samplesPage); };
  const last = state.from + found.groups.length;
  box.replaceChildren(
    state.chosen.length > 1 ? h("p", { class: "sub" }, `Of ${title(entry(key))}; choose a run alone to see its own.`) : "",
    ...found.groups.map((g) => group(key, g)),
    found.total === 0 ? h("p", { class: "empty" }, "No samples yet: a run keeps a dozen groups from its first to its last step.") : h("p", { class: "tools" },
      state.from > 0 ? h("button", { class: "button", onclick: move(-8) }, "Newer") : null,
      h("span", {}, `${state.from + 1} to ${last} of ${found.total} groups, the newest first`),
      last < found.total ? h("button", { class: "button", onclick: move(8) }, "Older") : null));
}

// Settings, checkpoints, files; of several runs what differs.

function table(head, rows) {
  return h("div", { class: "card scroll" }, h("table", {}, h("tr", {}, head.map((t) => h("th", {}, t))), rows.map((r) => h("tr", {}, r.map((c) => h("td", {}, c ?? "–"))))));
}

function comparePage() {
  const found = state.compare;
  if (!found) return [h("p", { class: "empty" }, "Reading…")];
  const names = ["reward", "reward_std", "loss", "entropy", "kl", "grad_norm", "completions/mean_length", "completions/clipped_ratio", "step_time"];
  const rewards = [...new Set(found.names.flat())].filter((n) => /^rewards\/.*\/mean$|^eval_.*reward/.test(n));
  const of = (key, name) => state.details.get(key)?.figures.find((f) => f.name === name);
  const rows = [...names, ...rewards].map((name) => [name, state.chosen.map((key) => of(key, name))])
    .filter(([, values]) => values.some(Boolean))
    .map(([name, values]) => [name, ...values.map((v) => (v ? `${number(v.last)}  (${number(v.low)} to ${number(v.high)})` : "–"))]);
  return [
    h("h2", {}, "Settings that differ"),
    found.settings.length ? table(["setting", ...found.titles], found.settings.map(([name, values]) => [name, ...values.map((v) => (v === null ? "–" : h("code", {}, v)))])) : h("p", { class: "soft" }, "None: the runs were started alike."),
    h("h2", {}, "Figures: last (lowest to highest)"), table(["figure", ...found.titles], rows)];
}

function settingsPage() {
  if (state.chosen.length > 1) return comparePage();
  const d = state.details.get(state.chosen[0]);
  if (!d) return [h("p", { class: "empty" }, "Reading…")];
  const code = (v) => (v === null || v === undefined ? "–" : h("code", {}, String(v)));
  const shown = (v) => (v === null ? "–" : typeof v === "object" ? JSON.stringify(v) : String(v));
  return [
    d.command_line.length ? h("div", {}, h("h2", {}, "Command"), h("pre", { class: "log" }, d.command_line.join(" "))) : "",
    h("h2", {}, "Settings that are not the default"),
    d.changed.length ? table(["setting", "value", "default"], d.changed.map(([n, v, was]) => [n, code(v), code(was)])) : h("p", { class: "soft" }, "None."),
    h("h2", {}, "Checkpoints"),
    d.checkpoints.length ? table(["step", "size", "kind", "state", "folder"], d.checkpoints.map((c) => [String(c.step) + (c.best ? " (best)" : ""), bytes(c.bytes), c.kind, c.damaged ? `damaged: ${c.damaged}` : "whole", code(c.path)])) : h("p", { class: "soft" }, "None yet."),
    h("h2", {}, "Files"), table(["file", "size"], d.files.map(([n, size]) => [code(n), bytes(size)])),
    h("details", { class: "more" }, h("summary", {}, "Every setting"), table(["setting", "value"], Object.entries(d.settings).map(([n, v]) => [n, code(shown(v))]))),
  ];
}

async function logPage(box) {
  const key = state.chosen[0];
  let pre = box.querySelector("pre");
  const fresh = !pre || state.log?.key !== key;
  const found = await ask(`/api/runs/${key}/log${fresh ? "" : `?after=${state.log.next}`}`);
  if (fresh || found.from < state.log.next) {
    pre = h("pre", { class: "log", tabindex: 0 }, found.text || "No log: runs of older versions kept none.");
    box.replaceChildren(pre);
    pre.scrollTop = pre.scrollHeight;
  } else if (found.text) {
    const atEnd = pre.scrollTop + pre.clientHeight > pre.scrollHeight - 30;
    pre.append(found.text);
    if (atEnd) pre.scrollTop = pre.scrollHeight;
  }
  state.log = { key, next: found.next };
}

// Drawing and asking.

function show(page) {
  const box = document.getElementById("page");
  if (box) Promise.resolve(page(box)).catch((e) => box.replaceChildren(h("p", { class: "note failed" }, e.message)));
}

function fillPage() {
  const box = document.getElementById("page");
  if (!box) return;
  if (state.tab === "curves") {
    if (!document.getElementById("curves")) box.replaceChildren(tools(), h("div", { id: "curves" }));
    drawCurves();
  } else if (state.tab === "time") box.replaceChildren(...timePage().flat().filter(Boolean));
  else if (state.tab === "settings") box.replaceChildren(...settingsPage().filter(Boolean));
  else show(state.tab === "samples" ? samplesPage : logPage);
}

function draw() {
  drawList();
  if (state.chosen.length === 0) {
    document.title = "Runs · grpo-rt";
    main.replaceChildren(...overview().filter(Boolean));
    return;
  }
  document.title = `${state.chosen.map((k) => entry(k)?.run_id ?? "?").join(", ")} · grpo-rt`;
  const missing = state.chosen.find((k) => !entry(k));
  if (missing) {
    main.replaceChildren(h("h1", {}, "This run is gone"), h("p", { class: "sub" }, "It was deleted or moved since the page was opened."));
    return;
  }
  main.replaceChildren(h("div", { id: "head" }, heading().filter(Boolean)), tabs(), h("div", { id: "page" }));
  fillPage();
}

// What changed is drawn again, and where somebody reads or types nothing moves.
function refresh() {
  const head = document.getElementById("head");
  if (state.chosen.length === 0 || !head || state.chosen.some((k) => !entry(k))) { draw(); return; }
  drawList();
  head.replaceChildren(...heading().filter(Boolean));
  if (state.tab === "settings" && main.querySelector("details[open]")) return;
  if (state.tab === "samples" && state.from > 0) return;
  fillPage();
}

async function load() {
  const keys = state.chosen.filter(entry), asked = (state.asked += 1);
  const [answers, compared] = await Promise.all([
    Promise.all(keys.map(async (key) => [key, await ask(`/api/runs/${key}`), await ask(`/api/runs/${key}/metrics?points=500`)])),
    keys.length > 1 ? ask(`/api/compare?runs=${keys.join(",")}`) : null,
  ]);
  // The answer to an older question.
  if (asked !== state.asked) return false;
  for (const [key, details, thin] of answers) {
    state.details.set(key, details);
    state.curves.set(key, thin);
  }
  state.compare = compared;
  return true;
}

const stampOf = () => state.chosen.map((k) => { const r = entry(k); return r ? `${r.key} ${r.step} ${r.state} ${r.updated} ${r.line.length}` : "gone"; }).join("|");

async function poll() {
  const pulse = document.getElementById("pulse");
  try {
    const found = await ask("/api/runs");
    state.runs = found.runs.sort((a, b) => b.started.localeCompare(a.started) || a.run_id.localeCompare(b.run_id));
    Object.assign(document.getElementById("root"), { textContent: found.root, title: found.root });
    const now = stampOf();
    if (now !== state.seen && (await load())) {
      state.seen = now;
      refresh();
    } else if (state.chosen.length === 0) {
      draw();
    } else {
      drawList();
      if (state.tab === "log") show(logPage);
    }
    pulse.textContent = state.runs.some((r) => r.state === "running") ? "live, every two seconds" : "nothing is running";
    pulse.classList.remove("off");
  } catch (e) {
    pulse.textContent = `no connection: ${e.message}`;
    pulse.classList.add("off");
  }
}

function route() {
  const [keys, tab] = location.hash.replace(/^#\//, "").split("/");
  const chosen = (keys ?? "").split(",").filter((k) => /^[0-9a-f]{16}$/.test(k)).slice(0, MOST);
  const wanted = TABS.some(([id]) => id === tab) ? tab : "curves";
  const other = chosen.join() !== state.chosen.join();
  Object.assign(state, { chosen, tab: wanted, from: 0, log: null });
  if (other) { state.seen = ""; poll().then(draw); }
  draw();
}

async function live() {
  if (!document.hidden) await poll();
  setTimeout(live, POLL);
}

document.getElementById("filter").addEventListener("input", (e) => { state.filter = e.target.value; drawList(); });
window.addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
poll().then(() => { route(); live(); });
