// The figures: losses, lengths, scorecard, noise, swaps. Each fills the places that name it.

const DATA = JSON.parse(document.getElementById("data").textContent);
const places = (kind) => [...document.querySelectorAll(`[data-figure="${kind}"]`)];

function panel(place, title) {
  const figure = el("figure", { class: "panel" }, el("figcaption", {}, title));
  place.append(figure);
  return figure;
}

function legend(place, runs) {
  if (runs.length < 2) return;
  place.before(el("div", { class: "legend" }, runs.map((r) => el("span", {}, lineKey(r.index, r.colour), r.name))));
}

// High accuracies differ most in what they mean: spread them over the colours.
const strong = (accuracy) => Math.max(0, accuracy) ** 2.5;

const RUNS = DATA.map((r, index) => ({ ...r, index, colour: (index % 6) + 1 }));

function losses() {
  for (const place of places("losses")) {
    const runs = RUNS.filter((r) => r.losses.length);
    legend(place, runs);
    const terms = new Map(runs.flatMap((r) => r.losses.map((l) => [l.term, l.title])));
    for (const [term, title] of terms) {
      const series = runs.flatMap((r) => r.losses.filter((l) => l.term === term).map((l) => ({
        name: r.name, colour: r.colour, style: r.index, band: true,
        points: l.steps.map((x, i) => ({
          x, y: l.mean[i], low: l.low[i], high: l.high[i],
          tip: l.each > 1 ? `${number(l.mean[i])} (${number(l.low[i])} to ${number(l.high[i])})` : number(l.mean[i]),
        })).filter((p) => p.y > 0),
      })));
      if (series.some((s) => s.points.length)) {
        const floors = runs.flatMap((r) => r.losses.filter((l) => l.term === term && l.floor).map((l) => l.floor));
        const floor = floors.length ? Math.min(...floors) : undefined;
        lineChart(panel(place, title), { title, xLabel: "step", log: true, floor, unit: number, series, endLabels: false, height: 190 });
      }
    }
  }
}

function lengthCurves() {
  for (const place of places("lengths")) {
    const runs = RUNS.filter((r) => Object.keys(r.lengths).length);
    legend(place, runs);
    const groups = [...new Set(runs.map((r) => r.group))]; // tasks have sets of the same name and other items
    const panels = groups.flatMap((group) => {
      const own = runs.filter((r) => r.group === group);
      return [...new Set(own.flatMap((r) => Object.keys(r.lengths)))].map((set) => ({ group, own, set }));
    });
    const all = runs.flatMap((r) => Object.values(r.lengths).flat());
    const xRange = [Math.min(...all.map((b) => b.length)), Math.max(...all.map((b) => b.length))];
    for (const { group, own, set } of panels) {
      const shown = groups.length > 1 ? `${group}: ${words(set)}` : words(set);
      const series = own.filter((r) => r.lengths[set]).map((r) => ({
        name: r.name, colour: r.colour, style: r.index,
        points: r.lengths[set].map((b) => ({
          x: b.length, y: b.accuracy, low: b.low, high: b.high, tip: `${interval(b)}, ${b.from === b.to ? b.from : `${b.from}–${b.to}`} tokens`,
        })),
      }));
      const test = own.find((r) => r.lengths.test)?.lengths.test;
      const divider = test ? { x: test.at(-1).to + 0.5 } : null;
      lineChart(panel(place, shown), {
        title: `Accuracy by prompt length, ${shown}`, xLabel: "prompt length, tokens", unit: percent, range: [0, 1], markers: true, series, divider, xRange,
        endLabels: false, height: 190,
      });
    }
  }
}

const CLASSES = { all: "all positions", prompt: "prompt", program: "program tokens", marker: "marker", answer: "answer" };
const ABOVE = { accuracy: "accuracy", majority: "gain over the majority", probe: "gain over the probe" };

function scorecards() {
  const controls = document.querySelector('[data-controls="scorecard"]');
  if (!controls) return;
  const cards = places("scorecard").map((place) => ({ run: RUNS[place.dataset.run], grid: makeGrid(place) }));
  const union = (f) => [...new Set(cards.flatMap(({ run }) => f(run.scorecard)))];
  const sets = union((c) => Object.keys(c.sets));
  const classes = union((c) => Object.values(c.sets).flatMap((s) => Object.keys(s.classes)));
  const state = { set: sets.includes("test") ? "test" : sets[0], kind: classes.includes("all") ? "all" : classes[0], shown: "accuracy" };
  const note = el("p", { class: "count", "aria-live": "polite" });

  function draw() {
    for (const { run, grid } of cards) {
      const card = run.scorecard;
      const table = card.sets[state.set]?.classes[state.kind] || {};
      const rows = card.order.filter((name) => table[name] && table[name].accuracy);
      grid.draw({
        label: `Decode accuracy of ${run.name}, variable by layer`,
        corner: "layer",
        columns: Array.from({ length: card.layers }, (_, l) => ({ text: l })),
        rows: rows.map((name) => ({ text: name, title: `${name}: ${table[name].positions} positions`, note: name === run.result ? "the result" : null })),
        cell: (i, l) => scoreCell(rows[i], table[rows[i]], l),
      });
    }
    const some = cards[0].run.scorecard.sets[state.set];
    note.textContent = some
      ? `${some.items ?? "?"} items${some.unlabelled_values ? `; ${some.unlabelled_values} values beyond the compiled table are not counted` : ""}`
      : "not in this run";
  }

  function scoreCell(name, row, l) {
    const value = row.accuracy[l];
    if (value === null || value === undefined) return null;
    const probe = row.probe?.[l] ?? null;
    const floor = Math.max(row.majority ?? 0, probe ?? 0);
    const minus = { accuracy: 0, majority: row.majority ?? 0, probe: probe ?? 0 }[state.shown];
    const shown = value - minus;
    return {
      text: state.shown === "probe" && probe === null ? "–" : whole(shown),
      level: state.shown === "accuracy" ? strong(shown) : Math.min(1, Math.max(0, shown * 1.6)),
      marks: value <= floor ? ["weak"] : [],
      tip: [`${name}, layer ${l}`, `decoded right ${exact(value)}`, `majority rate ${exact(row.majority)}`,
        `probe of the untouched model ${probe === null ? "not measured" : exact(probe)}`, `${row.positions} positions`,
        value <= floor ? "no better than the majority rate or the probe" : null],
    };
  }

  const change = (key) => (value) => ((state[key] = value), draw());
  controls.append(
    choice("set", sets.map((s) => [s, words(s)]), change("set"), { "data-role": "set" }),
    choice("positions", classes.map((c) => [c, CLASSES[c] || words(c)]), change("kind"), { "data-role": "class" }),
    choice("shown", Object.entries(ABOVE), change("shown"), { "data-role": "shown" }),
    note,
  );
  controls.querySelector('[data-role="set"]').value = state.set;
  controls.querySelector('[data-role="class"]').value = state.kind;
  draw();
  for (const { run, grid } of cards) grid.show(run.scorecard.layers - 1); // the sentence above is about the last layer
}

const KINDS = { result: "the result", random: "random", complement: "all but the result" };

function noise() {
  for (const place of places("noise")) {
    const run = RUNS[place.dataset.run];
    const colours = { result: 2, random: 1, complement: 3 };
    const series = Object.entries(run.noise.kinds).map(([kind, points]) => ({
      name: KINDS[kind] || kind, colour: colours[kind] || 4,
      points: points.map((p) => ({ x: p.strength, y: p.accuracy, low: p.low, high: p.high, tip: interval(p) })),
    }));
    lineChart(place, {
      title: `Accuracy under noise, ${run.name}`, xLabel: "strength of the noise", xTicks: [...new Set(series.flatMap((s) => s.points.map((p) => p.x)))],
      unit: percent, range: [0, 1], markers: true, series, height: 260,
    });
  }
}

const CONTROLS = { random: "same size, random direction", complement: "everything but the variable", other: "another variable's directions" };

// Whether the swap is followed above every control, by intervals; "faithful" is no control, it should be followed.
function tells({ swap, faithful, ...controls }) {
  return swap.low > Math.max(...Object.values(controls).map((m) => m.high));
}

function swaps() {
  for (const place of places("swaps")) {
    const run = RUNS[place.dataset.run];
    const cells = run.swaps.cells;
    if (!cells.length) {
      place.append(el("p", { class: "missing" }, "No variable could be exchanged."));
      continue;
    }
    const found = [...new Set(cells.map((c) => c.variable))];
    const order = [...run.variables].sort((a, b) => a.writer_layer - b.writer_layer).map((v) => v.name).filter((n) => found.includes(n));
    const rows = [...order, ...found.filter((n) => !order.includes(n))];
    const layers = [...new Set(cells.map((c) => c.layer))].sort((a, b) => a - b);
    const at = new Map(cells.map((c) => [`${c.layer} ${c.variable}`, c]));
    makeGrid(place).draw({
      label: `Swaps in ${run.name}, variable by layer`,
      corner: "layer",
      columns: layers.map((l) => ({ text: l })),
      rows: rows.map((name) => ({ text: name, note: name === run.result ? "the result" : null })),
      cell: (i, j) => {
        const c = at.get(`${layers[j]} ${rows[i]}`);
        if (!c) return null;
        // A program with one variable has no other one to exchange: null.
        const controls = Object.entries(c.controls).filter(([, m]) => m);
        // As swaps.py: of the pairs that tell, on bases answered rightly; older files have only the match.
        const swap = c.followed?.answer.swap;
        const weak = c.followed ? !tells(c.followed.answer) : c.match.low <= Math.max(...controls.map(([, m]) => m.high), c.unmoved.high);
        const why = c.followed?.program && !tells(c.followed.program) ? ", nor is the compiled program's own" : "";
        return {
          text: whole(c.match.accuracy),
          level: strong(c.match.accuracy),
          marks: weak ? ["weak"] : [],
          tip: [`${c.variable}, layer ${c.layer}`, `answers as the program predicts: ${interval(c.match)}`,
            swap ? `of the pairs that change its answer, where the model is right before: ${interval(swap)}` : null,
            ...controls.map(([k, m]) => `control, ${CONTROLS[k] || k}: ${exact(m.accuracy)}`),
            `without any swap: ${exact(c.unmoved.accuracy)}`, `the compiled program itself (ceiling): ${exact(c.ceiling.accuracy)}`,
            `${c.flips} of ${c.total} pairs change the program's answer`, weak ? `not above every control${why}` : null],
        };
      },
    });
  }
}
