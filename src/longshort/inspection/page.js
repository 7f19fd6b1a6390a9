"use strict";
// One object D holds what was recorded, one object S what is picked. draw() shows both; nothing else has a state.
const $ = (id) => document.getElementById(id), css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const NAMES = {i: "input gate (3)", f: "forget gate (2)", g: "candidate (4)", o: "output gate (6)", c: "cell (5)", h: "output (8)"};
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const GAP = 40, LIVE = $("live");
let D, S = {layer: null, question: null, gate: "f", unit: null, x: null}, version = 0;

function decode(v) {
  const bytes = Uint8Array.from(atob(v.f ?? v.u), (c) => c.charCodeAt(0)).buffer;
  const whole = (q) => (q === 65535 ? NaN : v.low + (q / 65534) * (v.high - v.low));
  const flat = v.f === undefined ? Float32Array.from(new Uint16Array(bytes), whole) : new Float32Array(bytes);
  if (v.shape.length === 1) return flat;
  return Array.from({length: v.shape[0]}, (_, k) => flat.subarray(k * v.shape[1], (k + 1) * v.shape[1]));
}
const encoded = (v) => v && typeof v === "object" && (v.f !== undefined || v.u !== undefined) && v.shape;
function opened(v) {
  if (encoded(v)) return decode(v);
  if (Array.isArray(v)) return v.map(opened);
  if (!v || typeof v !== "object") return v;
  const made = {};
  for (const [k, x] of Object.entries(v)) {  // numbers are decoded when they are first asked for
    const get = () => { const value = opened(x); Object.defineProperty(made, k, {value, enumerable: true}); return value; };
    Object.defineProperty(made, k, encoded(x) ? {get, enumerable: true, configurable: true} : {value: opened(x), enumerable: true});
  }
  return made;
}

const most = (v) => v.reduce((a, b) => (b > a ? b : a), 0), sig = (v) => (Number.isFinite(v) ? String(+v.toPrecision(3)) : "–");
const place = (x) => (D.labels.length ? D.labels[Math.round(x)] ?? "" : D.unit === "seconds" ? `${x.toFixed(2)} s` : sig(x));
const steps = (v) => (v === null || v === undefined ? "–" : `${v >= 10 ? Math.round(v).toLocaleString("en") : sig(v)} steps`);
const layer = () => D.layers.find((l) => l.name === S.layer), nearest = (at, x) => at.reduce((b, v, k) => (Math.abs(v - x) < Math.abs(at[b] - x) ? k : b), 0);
const nulls = (v) => Array.from(v, (x) => (Number.isFinite(x) ? x : null));
const plain = (said) => said.replaceAll("&", "&amp;").replaceAll("<", "&lt;"), text = (at) => Array.from(at, (x) => plain(place(x)));  // Plotly reads tags

function options(id, rows, chosen) {
  $(id).replaceChildren(...rows.map(([value, said]) => new Option(said, value, false, String(value) === String(chosen))));
}

function load(data) {
  D = opened(data);
  if (!layer()) S.layer = D.layers[0].name;
  S.question = Math.min(S.question ?? D.main, D.questions.length - 1);
  const l = layer();
  if (!l.units.includes(S.unit)) S.unit = l.units[0];
  if (S.x === null) S.x = l.at[l.at.length - 1];
  document.title = $("title").textContent = D.title;
  $("made").textContent = `looked into ${D.made}`;
  $("about").textContent = `Made by ${D.versions}. Everything is in this page: it loads nothing from elsewhere.`;
  $("findings").replaceChildren(...D.findings.map((f) => {
    const li = document.createElement("li"), b = document.createElement("b");
    li.className = f.level;
    b.textContent = `${f.layer} `;
    li.append(b, f.said);
    return li;
  }));
  $("left").hidden = !D.notes.length;
  $("notes").replaceChildren(...D.notes.map((n) => Object.assign(document.createElement("li"), {textContent: n})));
  $("layers").tBodies[0].replaceChildren(...D.layers.map((l) => {
    const tr = document.createElement("tr"), s = l.summary;
    tr.dataset.name = l.name;
    for (const v of [l.name, l.cell, l.all, sig(s["f.mean"] ?? 1), ["i", "f", "o"].map((k) => l.stuck[k] ?? "–").join(" / "), steps(s.time_constant),
      steps(s["time_constant.90"]), s.horizon === null ? "further than it ran" : steps(s.horizon)]) tr.insertCell().textContent = v;
    tr.onclick = () => pick({layer: l.name});
    return tr;
  }));
  options("layer", D.layers.map((l) => [l.name, `${l.name}${l.reverse ? " (backwards)" : ""}`]), S.layer);
  options("question", D.questions.map((q, k) => [k, q.name]), S.question);
  options("gate", Object.entries(NAMES), S.gate);
  draw();
}

function pick(change) {
  Object.assign(S, change);
  const l = layer();
  if (!l.units.includes(S.unit)) S.unit = l.units[0];
  draw();
}

function base(height, more) {
  const axis = {gridcolor: css("grid"), zeroline: false, linecolor: css("grid"), tickfont: {size: 11}, automargin: false};
  return {axis, layout: {height, margin: {l: innerWidth > 640 ? 54 : 38, r: 12, t: 26, b: 42}, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: {family: css("sans"), size: 12, color: css("faint")}, showlegend: false, hoverlabel: {bgcolor: css("card"), bordercolor: css("grid"),
    font: {color: css("ink"), family: css("sans"), size: 12}}, dragmode: innerWidth > 640 ? "zoom" : false, ...more}};
}

function picture() {
  const p = D.picture, line = (name, more) => ({type: "scatter", mode: "lines", line: {color: css(name), width: 1.6}, ...more});
  const said = "%{text}: %{y:.4g}<extra></extra>";
  if (p.kind === "series") {
    const n = p.y.length, x = Array.from({length: n}, (_, k) => k), rows = [line("ink", {x, y: nulls(p.y), text: text(x), hovertemplate: said})];
    if (p.ahead) {
      const a = Array.from(p.ahead[1], (_, k) => n + k), [low, mid, high] = p.ahead.map(nulls);
      rows.push(line("f", {x: a, y: low, line: {width: 0}, hoverinfo: "skip"}), line("f", {x: a, y: high, line: {width: 0}, fill: "tonexty",
        fillcolor: `${css("f")}40`, hoverinfo: "skip"}), line("f", {x: a, y: mid, text: text(a), hovertemplate: said, line: {color: css("f"), width: 2.2}}));
    }
    return [{height: 150, title: `what it read${p.ahead ? `, and its <span style="color:${css("f")}"><b>forecast</b></span> with the ${p.level} % interval` : ""}`, traces: rows}];
  }
  if (p.kind === "sound") {
    const x = Array.from(p.low, (_, k) => (k + 0.5) * p.step), z = p.spectrogram, bins = z[0].length;
    const columns = Array.from({length: bins}, (_, b) => z.map((row) => row[b]));
    const hertz = [250, 500, 1000, 2000, 4000].filter((f) => f < p.hertz[bins - 1]), rows = hertz.map((f) => p.hertz.findIndex((v) => v >= f));
    return [{height: 110, title: "sound, and the words that were heard", words: p.words, ticks: [[0], ["0"]], traces: [
      line("faint", {x, y: p.low, line: {width: 0}, hoverinfo: "skip"}),
      line("i", {x, y: p.high, line: {width: 0.5, color: css("i")}, fill: "tonexty", fillcolor: css("i"), hoverinfo: "skip"})]},
    {height: 120, title: "spectrogram, kHz", ticks: [rows, hertz.map((f) => String(f / 1000))], traces: [{type: "heatmap", z: columns, x0: 0.005, dx: 0.01,
      colorscale: "Cividis", showscale: false, hoverinfo: "skip"}]}];
  }
  const x = Array.from(p.y, (_, k) => k), bars = {height: 130, title: p.name, traces: [{type: "bar", x, y: nulls(p.y), text: text(x), textposition: "none", hovertemplate: said,
    marker: {color: css("i")}}], zero: true};
  if (p.kind !== "attention") return [bars];
  const n = p.weights.length, read = x.slice(0, p.weights[0].length), height = Math.max(60, Math.min(16 * n, 480)), by = Math.ceil((12 * n) / height);
  const names = Array.from(p.weights, (_, k) => place(p.first + k));
  return [{...bars, height: 80}, {height, title: "attention: what was looked at for each output", range: [n - 0.5, -0.5], ticks: [[], []], matrix: {first: p.first, end: read.length - 0.5},
    names: names.map((said, k) => [said, read.length - 0.4, k]).filter((_, k) => k % by === 0), traces: [{type: "heatmap", meta: "outputs", x: read, y: names.map((_, k) => k), z: p.weights.map(nulls),
      text: names.map((made) => read.map((k) => plain(`${made} looked at ${place(k)}`))), zmin: 0, zmax: 1, colorscale: [[0, css("mid")], [1, css("i")]], showscale: false, xgap: 1, ygap: 1,
      hovertemplate: "%{text}: %{z:.3f}<extra></extra>"}]}];
}

function rows(l) {
  const q = D.questions[S.question], g = D.gradient[S.question], c = D.changed[S.question], u = l.units.indexOf(S.unit), z = l.gates[S.gate];
  const share = (v) => { const m = most(v) || 1; return Array.from(v, (x) => x / m); };
  const room = innerWidth > 640 ? 60 : 18, names = text(D.at), own = text(l.at), n = z[0].length, single = S.gate === "h" && l.projected;
  const cell = (k, width) => ({type: "scatter", mode: l.at.length > 1 ? "lines" : "markers", x: l.at, y: l.gates[k].map((row) => (k === "h" && l.projected ? null : row[u])),
    text: own, hovertemplate: `${k} %{y:.4f}<br>%{text}<extra></extra>`, line: {color: css(k), width}});
  const signed = !"ifo".includes(S.gate), bound = signed ? most(z.map((row) => most(row.map(Math.abs)))) || 1 : 1;
  const scale = signed ? [[0, css("low")], [0.5, css("mid")], [1, css("high")]] : VIRIDIS.map((v, k) => [k / 9, v]);
  $("ramp").style.background = `linear-gradient(90deg, ${scale.map((v) => v[1]).join(",")})`;
  $("least").textContent = signed ? `${S.gate} = −${sig(bound)}` : `${S.gate} = 0`;
  $("most").textContent = sig(bound);
  const colour = (k) => `<span style="color:${css(k)}"><b>${k}</b></span>`;
  return [...picture(),
    {height: 100, title: `what mattered for <b>${plain(q.name.length > room ? `${q.name.slice(0, room - 1)}…` : q.name)}</b>: <span style="color:${css("i")}"><b>gradient</b></span>, <span style="color:${css("f")}"><b>taken out</b></span>`, zero: true, ticks: [[0, 1], ["0", "max"]], traces: [
      {...(D.at.length > 300 ? {type: "scatter", mode: "lines", fill: "tozeroy", line: {color: css("i"), width: 1}} : {type: "bar", textposition: "none", marker: {color: css("i")}}),
        x: D.at, y: share(g), customdata: g, text: names, hovertemplate: "gradient %{customdata:.3g}<br>%{text}<extra></extra>"},
      {type: "scatter", mode: "lines", x: D.at, y: share(c), customdata: c, text: names, line: {color: css("f"), width: 1.8, shape: "hvh"}, hovertemplate: "change %{customdata:.3g}<br>%{text}<extra></extra>"}]},
    {height: 230, title: `${NAMES[S.gate]} of ${l.name}${innerWidth > 640 ? ", slow units at the top" : ""}`, heat: !single, traces: [{type: "heatmap", meta: "units", x: l.at, z: Array.from({length: n}, (_, k) => z.map((row) => (Number.isFinite(row[k]) ? row[k] : null))),
      y: Array.from({length: n}, (_, k) => String(single ? k : l.units[k])), text: Array(n).fill(own), zmin: signed ? -bound : 0, zmax: bound, colorscale: scale, showscale: false,
      hovertemplate: `unit %{y}, %{text}<br>${S.gate} = %{z:.4f}<extra></extra>`}]},
    {height: 110, title: `gates of unit ${S.unit}: ${colour("i")} input, ${colour("f")} forget, ${colour("o")} output`, range: [-0.04, 1.04], ticks: [[0, 0.5, 1], ["0", ".5", "1"]], traces: [cell("i", 1.6), cell("f", 2), cell("o", 1.6)]},
    {height: 120, title: `cell of unit ${S.unit}: ${colour("c")} cell, ${colour("g")} candidate, ${colour("h")} output`, traces: [cell("g", 1.2), cell("h", 1.6), cell("c", 2.2)], zeroline: true}];
}

function ticks(low, high) {
  if (!D.labels.length) return {};
  const first = Math.max(0, Math.ceil(low)), last = Math.min(D.labels.length - 1, Math.floor(high)), shown = D.labels.slice(first, last + 1);
  const letters = Math.max(1, ...shown.map((s) => s.length)), wide = 7.2 * letters + Math.min(14, 4 + 2 * letters), room = Math.max(1, Math.floor(($("time").clientWidth - 66) / wide));
  const upright = D.picture.kind === "attention" && shown.length > room && 15 * shown.length <= $("time").clientWidth - 66;  // each token counts
  const by = upright ? 1 : Math.max(1, Math.ceil(shown.length / room)), at = shown.map((_, k) => first + k).filter((k) => (k - first) % by === 0);
  return {tickmode: "array", tickvals: at, ticktext: at.map((k) => plain(D.labels[k])), ...(upright && {tickangle: -90, deep: Math.max(0, 7 * letters - 16)})};
}

function marks(l, domains, wordsAt) {
  const q = D.questions[S.question], x = l.at[S.t], ink = css("ink"), heat = domains.heat, half = D.unit === "seconds" ? 0 : 0.5;
  const made = [{type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: {color: ink, width: 1, dash: "dot"}},
    {type: "rect", x0: q.start - half, x1: q.end + half, yref: "paper", y0: domains.top[0], y1: domains.top[1], fillcolor: css("f"), opacity: 0.14, line: {width: 0}, layer: "below"}];
  if (domains.matrix) {
    const {axis, first, end} = domains.matrix;
    made.push({type: "rect", x0: -0.5, x1: end, yref: axis, y0: q.start - first - 0.5, y1: q.end - first + 0.5, line: {color: css("f"), width: 1.6}});
  }
  if (heat.marked) {
    const k = l.units.indexOf(S.unit);
    made.push({type: "rect", xref: "paper", x0: 0, x1: 1, yref: heat.axis, y0: k - 0.5, y1: k + 0.5, line: {color: ink, width: 1.4}});
  }
  return made;
}

function drawTime(l) {
  const list = rows(l), total = list.reduce((a, r) => a + r.height, 0) + GAP * (list.length - 1), narrow = innerWidth <= 640;
  const traces = [], domains = {}, notes = [];
  const low = Math.min(D.at[0], l.at[0]), high = Math.max(D.at[D.at.length - 1], ...D.layers.map((o) => o.at[o.at.length - 1]), D.labels.length - 1);
  const half = D.at.length > 1 ? (D.at[1] - D.at[0]) / 2 : 0.5, range = S.range ?? [low - half, high + half];
  const {deep = 0, ...named} = ticks(...range), {axis, layout} = base(total + 68 + deep);
  layout.margin.b += deep;
  let top = 1;
  list.forEach((r, k) => {
    const id = k ? k + 1 : "", bottom = Math.max(0, top - r.height / total);
    layout[`yaxis${id}`] = {...axis, domain: [bottom, top], fixedrange: true, nticks: 4, zeroline: !!(r.zero || r.zeroline), zerolinecolor: css("grid"),
      ...(r.range && {range: r.range}), ...(r.zero && {rangemode: "tozero"}), ...(r.ticks && {tickmode: "array", tickvals: r.ticks[0], ticktext: r.ticks[1]}),
      ...(r.heat !== undefined && {type: "category", autorange: "reversed", showticklabels: false, showgrid: false, ticks: ""})};
    notes.push({text: r.title, xref: "paper", x: 0, yref: "paper", y: top, xanchor: "left", yanchor: "bottom", showarrow: false, font: {size: narrow ? 11 : 12.5, color: css("ink")}});
    if (r.heat !== undefined) domains.heat = {axis: `y${id}`, marked: r.heat};
    if (r.matrix) domains.matrix = {axis: `y${id}`, ...r.matrix};
    if (!k) domains.top = [bottom, top];
    for (const [said, x, y] of r.names ?? []) notes.push({text: plain(said), x, yref: `y${id}`, y, xanchor: "left", yanchor: "middle", showarrow: false, font: {size: narrow ? 10 : 11.5, color: css("ink")}});
    for (const [word, from, to] of r.words ?? []) notes.push({text: plain(word), x: (from + to) / 2, yref: "paper", y: bottom + 2 / total, yanchor: "bottom", showarrow: false, font: {size: narrow ? 10 : 12, color: css("ink")}, bgcolor: `${css("card")}cc`, borderpad: 1});
    traces.push(...r.traces.map((t) => ({...t, yaxis: `y${id}`})));
    layout.xaxis = {...axis, range, anchor: `y${id}`, title: {text: D.labels.length ? "" : D.unit, standoff: 8}, ...named};
    top = bottom - GAP / total;
  });
  S.domains = domains;
  Plotly.react("time", traces, {...layout, bargap: 0.15, annotations: notes, shapes: marks(l, domains)}, {displayModeBar: false, responsive: true});
}

function drawFlow(l) {
  const {axis, layout} = base(270), narrow = innerWidth <= 640, traces = [];
  const share = (v) => { const m = most(v); return Array.from(v, (x) => (x > 0 && m ? x / m : null)); };
  const add = (v, color, width, name, dash) => traces.push({type: "scatter", mode: "lines", x: Array.from(v, (_, k) => k), y: share(v), name, line: {color, width, dash},
    hovertemplate: `${name}<br>lag %{x}: %{y:.3g}<extra></extra>`});
  for (const o of D.layers) if (o !== l) add(o.flow[S.question], css("note"), 1, o.name);
  add(l.plain, css("i"), 2, "plain RNN", "dash");
  add(l.flow[S.question], css("f"), 2.6, l.name);
  const least = Math.min(...traces.map((t) => Math.min(...t.y.filter((v) => v !== null))));
  layout.xaxis = {...axis, title: {text: "lag: steps back from the answer", standoff: 6}, rangemode: "tozero"};
  layout.yaxis = {...axis, type: "log", range: [Math.max(-12, Math.log10(Math.min(least, 0.005)) - 0.2), 0.25], exponentformat: "power", nticks: 7, fixedrange: true};
  layout.shapes = [{type: "line", xref: "paper", x0: 0, x1: 1, y0: 0.01, y1: 0.01, line: {color: css("faint"), width: 1, dash: "dot"}}];
  layout.annotations = [{text: "1 %", xref: "paper", x: 1, y: -2, xanchor: "right", yanchor: "top", showarrow: false, font: {size: 11}}];
  $("flowing").innerHTML = "";
  const b = (name, color) => Object.assign(document.createElement("b"), {textContent: name, style: `color:${css(color)}`});
  $("flowing").append(b(l.name, "f"), ` for ${D.questions[S.question].name}, |dL/dc| as a share of its largest; dashed, a `, b("plain RNN", "i"),
    ` of the same width on the same input, untrained, |dL/dh| of its last output${D.layers.length > 1 ? "; grey, the other layers" : ""}.`);
  Plotly.react("flow", traces, {...layout, margin: {...layout.margin, t: 8}}, {displayModeBar: false, responsive: true});
}

function drawMemory(l) {
  const {axis, layout} = base(270), y = nulls(l.tau), x = Array.from(y, (_, k) => k), k = l.units.indexOf(S.unit);
  const known = y.some((v) => v !== null);
  layout.xaxis = {...axis, title: {text: "units, slow to fast", standoff: 6}, showticklabels: false};
  layout.yaxis = {...axis, type: "log", nticks: 6, fixedrange: true, exponentformat: "power"};
  layout.annotations = known ? [] : [{text: "no forget gate: every unit remembers for ever", xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false}];
  Plotly.react("memory", [{type: "scatter", mode: "markers", x, y, text: l.units.map((u) => `unit ${u}`), marker: {opacity: 1, line: {width: 0}, color: x.map((j) => (j === k ? css("f") : css("i"))), size: x.map((j) => (j === k ? 11 : 6))},
    hovertemplate: "%{text}: %{y:.3g} steps<extra></extra>"}], {...layout, margin: {...layout.margin, t: 8}}, {displayModeBar: false, responsive: true});
}

function read(l) {
  const t = S.t, u = l.units.indexOf(S.unit), at = (k, t) => { const row = l.gates[k][t]; return row && !(k === "h" && l.projected) ? row[u] : NaN; };
  const four = (v) => (Number.isFinite(v) ? v.toFixed(4).replace("-", "−") : "–");
  $("which").textContent = `Unit ${S.unit} of ${l.name} at ${place(l.at[t])}`;
  $("reading").querySelector("dl").replaceChildren(...Object.entries(NAMES).map(([k, name]) => {
    const div = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd");
    div.style.setProperty("--tone", css(k));
    dt.textContent = `${k}, ${name}`;
    dd.textContent = four(at(k, t));
    dd.dataset.key = k;
    dd.dataset.value = at(k, t);
    div.append(dt, dd);
    return div;
  }));
  const sum = (said) => (said.startsWith("−") ? `(${said})` : said);
  const before = at("c", t + (l.reverse ? l.dilation : -l.dilation)), [f, i, g, c] = ["f", "i", "g", "c"].map((k) => four(at(k, t)));
  $("equation").textContent = l.exact && Number.isFinite(before) ? `(5)  c = f · c before + i · g = ${f} · ${sum(four(before))} + ${i} · ${sum(g)} = ${c}` : "";
  $("where").textContent = `${place(l.at[t])} (${t + 1} of ${l.at.length})`;
  $("step").max = l.at.length - 1;
  $("step").value = t;
}

function draw() {
  const l = layer();
  S.t = nearest(l.at, S.x);
  $("layer").value = S.layer;
  $("question").value = S.question;
  $("gate").value = S.gate;
  $("unit").value = S.unit;
  $("unit").max = l.all - 1;
  for (const tr of $("layers").tBodies[0].rows) tr.classList.toggle("chosen", tr.dataset.name === S.layer);
  $("how").textContent = `Gradient: how much the answer moves with each step of the input. Taken out: how much it changes ${D.taken}. Click into the heat map to pick a unit and a step${innerWidth > 640 ? "; drag to zoom, double-click to go back" : ""}.`;
  drawTime(l);
  drawFlow(l);
  drawMemory(l);
  read(l);
}

function move(x) {
  const l = layer();
  S.x = x;
  S.t = nearest(l.at, x);
  read(l);
  Plotly.relayout("time", {shapes: marks(l, S.domains)});
}

function unit(by) {
  const l = layer(), k = l.units.indexOf(S.unit) + by;
  if (k >= 0 && k < l.units.length) pick({unit: l.units[k]});
}

$("layer").onchange = (e) => pick({layer: e.target.value});
$("question").onchange = (e) => pick({question: Number(e.target.value)});
$("gate").onchange = (e) => pick({gate: e.target.value});
$("unit").onchange = (e) => pick(layer().units.includes(Number(e.target.value)) ? {unit: Number(e.target.value)} : {});
$("slower").onclick = () => unit(-1);
$("faster").onclick = () => unit(1);
$("step").oninput = (e) => move(layer().at[Number(e.target.value)]);
$("theme").onclick = () => {
  const order = ["system", "light", "dark"], next = order[(order.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % 3];
  if (next === "system") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = next;
  $("theme").textContent = `theme: ${next}`;
  draw();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
let wide = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === wide) return;
  wide = innerWidth;
  draw();
});

load(JSON.parse($("data").textContent));
$("time").on("plotly_click", (e) => {
  const p = e.points[0];
  if (p.data.meta === "outputs") {
    const at = D.picture.first + p.y, k = D.questions.findIndex((q) => q.start <= at && at <= q.end);
    if (k >= 0) pick({question: k});
  } else if (p.data.meta === "units") {
    S.x = p.x;
    pick(S.domains.heat.marked ? {unit: Number(p.y)} : {});
  } else move(p.x);
});
$("time").on("plotly_relayout", (e) => {
  if (e["xaxis.range[0]"] !== undefined) S.range = [e["xaxis.range[0]"], e["xaxis.range[1]"]];
  else if (e["xaxis.autorange"]) S.range = null;
  else return;
  drawTime(layer());
});
$("memory").on("plotly_click", (e) => pick({unit: layer().units[e.points[0].pointNumber]}));

async function poll() {
  try {
    const got = await fetch(`/data?after=${version}`);
    if (got.status === 200) {
      const data = await got.json();
      version = Number(got.headers.get("X-Version"));
      load(data);
    }
    LIVE.className = "";
    LIVE.textContent = `live, ${D.made}`;
  } catch {
    LIVE.className = "lost";
    LIVE.textContent = `no longer served; this is from ${D.made}`;
  }
  setTimeout(poll, 1000);
}
if (LIVE) poll();
