// Line charts with intervals: a marker and a dash for every series beside its colour, names at the line's end.

const DASHES = ["", "6 3", "2 3", "8 3 2 3", "1 3", "10 4"];

function marker(shape, x, y, className) {
  const r = 3.6;
  if (shape % 4 === 0) return svg("circle", { cx: x, cy: y, r, class: className });
  if (shape % 4 === 1) return svg("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r, class: className });
  const points = shape % 4 === 2
    ? [[x, y - r - 1], [x + r + 1, y + r], [x - r - 1, y + r]]
    : [[x, y - r - 1.2], [x + r + 1.2, y], [x, y + r + 1.2], [x - r - 1.2, y]];
  return svg("polygon", { points: points.map((p) => p.join(",")).join(" "), class: className });
}

// A legend's sample of a line, with its dash and marker.
function lineKey(style, colour) {
  return svg("svg", { width: 34, height: 12, class: "line-key", "aria-hidden": "true" },
    svg("path", { d: "M0 6L34 6", class: `line s${colour}`, "stroke-dasharray": DASHES[style % DASHES.length] }),
    marker(style, 17, 6, `dot s${colour}`));
}

function logTicks(low, high) {
  const out = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const m of [1, 2, 5]) if (m * 10 ** e >= low && m * 10 ** e <= high) out.push(m * 10 ** e);
  }
  if (out.length < 2) return niceTicks(low, high, 3);
  return out.length > 5 ? out.filter((v) => Math.abs(Math.log10(v) % 1) < 1e-9 || out.length < 7) : out;
}

function niceTicks(low, high, count) {
  const raw = (high - low) / Math.max(count, 1) || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) out.push(Number(v.toPrecision(12)));
  return out;
}

// options: {title, xLabel, xTicks?, log?, unit(y), height?, series: [{name, colour, band?, points: [{x, y, low?, high?, tip}]}],
//           divider?: {x}, markers?: bool, floor?: number (where a log axis begins), range?: [low, high], xRange?: [low, high]}; a series' `style` is its dash and marker
function lineChart(place, options) {
  const all = options.series.flatMap((s) => s.points);
  const chart = el("div", { class: "chart" });
  place.append(chart);
  let [xLow, xHigh] = options.xRange || [Math.min(...all.map((p) => p.x)), Math.max(...all.map((p) => p.x))];
  if (xLow === xHigh) [xLow, xHigh] = [xLow - 1, xHigh + 1];
  const ys = all.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]).filter((y) => !options.log || y > 0);
  let [yLow, yHigh] = options.range || [Math.min(...ys), Math.max(...ys)];
  if (options.log) {
    if (options.floor) yLow = Math.max(yLow, options.floor);
    if (!(yLow > 0)) [yLow, yHigh] = [0.1, 1];
    if (yHigh / yLow < 2) [yLow, yHigh] = [yLow / 1.5, yHigh * 1.5];
  } else if (yLow === yHigh) [yLow, yHigh] = [yLow - 0.5, yHigh + 0.5];

  function draw(width) {
    const named = options.series.length > 1 && options.endLabels !== false;
    const longest = Math.max(...options.series.map((s) => s.name.length));
    const right = named ? Math.min(width * 0.4, longest * 7 + 16) : 14;
    const [left, top, bottom, height] = [44, 10, 38, options.height || 220];
    const x = (v) => left + ((v - xLow) / (xHigh - xLow)) * (width - left - right);
    const scale = options.log ? Math.log10 : (v) => v;
    const y = (v) => {
      const clipped = options.log ? Math.max(v, yLow) : v;
      return top + (1 - (scale(clipped) - scale(yLow)) / (scale(yHigh) - scale(yLow))) * (height - top - bottom);
    };
    const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.title });
    const yTicks = options.log ? logTicks(yLow, yHigh) : niceTicks(yLow, yHigh, 4);
    for (const t of yTicks) {
      root.append(svg("line", { x1: left, x2: width - right, y1: y(t), y2: y(t), class: "gridline" }));
      root.append(svg("text", { x: left - 7, y: y(t) + 4, class: "tick-text", "text-anchor": "end" }, options.unit(t)));
    }
    for (const t of options.xTicks || niceTicks(xLow, xHigh, Math.max(3, Math.floor((width - left - right) / 60)))) {
      root.append(svg("text", { x: x(t), y: height - bottom + 17, class: "tick-text", "text-anchor": "middle" }, number(t)));
    }
    root.append(svg("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, class: "axis" }));
    root.append(svg("text", { x: (left + width - right) / 2, y: height - 5, class: "axis-text", "text-anchor": "middle" }, options.xLabel));
    if (options.divider && options.divider.x > xLow && options.divider.x < xHigh) {
      const at = x(options.divider.x);
      root.append(svg("line", { x1: at, x2: at, y1: top, y2: height - bottom, class: "divider" }));
    }
    const ends = [];
    options.series.forEach((s, i) => {
      if (!s.points.length) return;
      const colour = `s${s.colour}`;
      if (s.band && s.points.some((p) => p.low !== p.high)) {
        const up = s.points.map((p) => `${x(p.x).toFixed(1)},${y(p.high).toFixed(1)}`);
        const down = s.points.map((p) => `${x(p.x).toFixed(1)},${y(p.low).toFixed(1)}`).reverse();
        root.append(svg("polygon", { points: [...up, ...down].join(" "), class: `band ${colour}` }));
      }
      const path = s.points.map((p, k) => `${k ? "L" : "M"}${x(p.x).toFixed(1)} ${y(p.y).toFixed(1)}`).join("");
      root.append(svg("path", { d: path, class: `line ${colour}`, "stroke-dasharray": DASHES[(s.style ?? i) % DASHES.length] }));
      if (options.markers) {
        for (const p of s.points) {
          if (p.low !== undefined) root.append(svg("line", { x1: x(p.x), x2: x(p.x), y1: y(p.low), y2: y(p.high), class: `error ${colour}` }));
          root.append(marker(s.style ?? i, x(p.x), y(p.y), `dot ${colour}`));
        }
      }
      const last = s.points.at(-1);
      ends.push({ at: y(last.y), text: s.name, colour });
    });
    if (named) {
      ends.sort((a, b) => a.at - b.at);
      ends.forEach((e, i) => (e.at = i ? Math.max(e.at, ends[i - 1].at + 15) : e.at));
      const over = Math.max(0, (ends.at(-1)?.at ?? 0) - (height - bottom));
      for (const e of ends) root.append(svg("text", { x: width - right + 8, y: e.at - over + 4, class: `end-text ${e.colour}` }, e.text));
    }
    chart.replaceChildren(root, cursor(root, { x, y, top, bottom: height - bottom, left, right: width - right }));
  }

  // Hover or arrow keys: a line at the nearest x, and every series' numbers there.
  const xs = [...new Set(all.map((p) => p.x))].sort((a, b) => a - b);
  let chosen = xs.length - 1;
  function cursor(root, area) {
    const line = svg("line", { y1: area.top, y2: area.bottom, class: "cursor", visibility: "hidden" });
    root.append(line);
    const pad = el("div", {
      class: "pad", tabindex: 0, role: "group", "aria-label": `${options.title}: arrow keys read the values`,
      style: { left: `${area.left - 6}px`, width: `${Math.max(10, area.right - area.left + 12)}px`, top: `${area.top}px`, height: `${area.bottom - area.top}px` },
    });
    const said = el("span", { class: "unseen", "aria-live": "polite" });
    pad.append(said);
    const show = (k) => {
      chosen = Math.min(Math.max(k, 0), xs.length - 1);
      const at = xs[chosen];
      line.setAttribute("x1", area.x(at));
      line.setAttribute("x2", area.x(at));
      line.setAttribute("visibility", "visible");
      const rows = options.series.map((s) => [s, s.points.find((p) => p.x === at)]).filter(([, p]) => p);
      const lines = [`${options.xLabel} ${number(at)}`, ...rows.map(([s, p]) => `${s.name}: ${p.tip}`)];
      setTip(pad, lines);
      said.textContent = lines.join("; ");
      showTip(pad);
    };
    pad.addEventListener("pointermove", (e) => {
      const here = e.clientX - root.getBoundingClientRect().left;
      show(xs.reduce((best, v, i) => (Math.abs(area.x(v) - here) < Math.abs(area.x(xs[best]) - here) ? i : best), 0));
    });
    const hide = () => (line.setAttribute("visibility", "hidden"), hideTip());
    pad.addEventListener("pointerleave", hide);
    pad.addEventListener("focus", () => pad.matches(":focus-visible") && show(chosen));
    pad.addEventListener("blur", hide);
    pad.addEventListener("keydown", (e) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, Home: -xs.length, End: xs.length }[e.key];
      if (move) {
        e.preventDefault();
        show(chosen + move);
      }
    });
    return pad;
  }
  responsive(chart, draw);
}
