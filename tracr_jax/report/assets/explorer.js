// The token explorer: one prompt at one layer, tokens across, variables down; a chosen variable over all layers.

function explorer() {
  const place = document.querySelector('[data-figure="explorer"]');
  if (!place) return;
  const runs = RUNS.filter((r) => r.examples.length && !r.baseline);
  const state = { run: runs[0], example: 0, layer: 0, variable: null, token: null, held: false };
  const depth = () => state.run.examples[state.example].layers.length - 1;

  const controls = el("div", { class: "controls" });
  const prompt = el("div", { class: "prompt" });
  const title = el("h3", {}, "");
  const count = el("p", { class: "count", "aria-live": "polite" });
  const main = el("div", { class: "explorer-main" });
  const detail = el("div", { class: "explorer-detail", hidden: true });
  place.append(controls, prompt, el("div", { class: "explorer-head" }, title, count), main, detail);
  const grid = makeGrid(main);
  const detailTitle = el("h3", {});
  const detailText = el("p", { class: "reading-small", "aria-live": "polite" });
  detail.append(detailTitle, detailText);
  const over = makeGrid(detail);

  // In the order in which the program writes them.
  const shown = () => state.run.variables.map((v, i) => [v, i]).filter(([v]) => v.values && v.values.length && v.kind !== "numerical")
    .sort(([a], [b]) => a.writer_layer - b.writer_layer);
  const example = () => state.run.examples[state.example];

  // The margin at which a colour is full: nearly the largest of this prompt, whatever the layer, so that layers compare.
  function fullMargin() {
    const all = example().layers.flatMap((l) => l.margin.flat()).filter((m) => m !== null).sort((a, b) => a - b);
    return all[Math.floor(0.9 * (all.length - 1))] || 1;
  }

  function cellOf(variable, index, layer, token, full) {
    const value = example().layers[layer].value[index]?.[token] ?? null;
    const margin = example().layers[layer].margin[index]?.[token] ?? null;
    const truth = example().truth[layer]?.[index]?.[token] ?? null;
    const where = `${variable.name}, layer ${layer}, token ${token} “${visible(example().tokens[token])}”`;
    const name = (k) => (k === null ? "nothing" : variable.values[k] ?? `value ${k}`);
    if (value === null) return { text: "", marks: ["void"], tip: [where, "not read here"] };
    const read = `read from the model: ${name(value)}${margin === null ? "" : `, margin ${number(margin)}`}`;
    if (truth === null) return { text: "·", marks: ["void"], tip: [where, "the program holds nothing here", `the adapter would say ${name(value)}`] };
    const wrong = value !== truth;
    return {
      text: short(name(value)),
      level: Math.min(1, Math.max(0.04, (margin ?? 0) / full)),
      marks: wrong ? ["wrong"] : [],
      tip: [where, read, wrong ? `the program has: ${name(truth)}` : "as the program has it"],
    };
  }

  const short = (text) => ({ true: "T", false: "F", True: "T", False: "F" })[text] ?? (text.length > 7 ? `${text.slice(0, 6)}…` : visible(text));
  const columns = () => example().tokens.map((t, k) => ({
    text: visible(t), title: `token ${k}: ${visible(t)}`, mark: example().answer_positions.includes(k) ? "answer ↓" : null,
  }));

  function draw() {
    const e = example();
    const full = fullMargin();
    const right = e.answer === e.label;
    prompt.replaceChildren(
      el("p", { class: "prompt-text" }, e.prompt),
      el("p", {}, "the model answers ", el("b", {}, visible(e.answer)), ", right is ", el("b", {}, visible(e.label)), right ? " ✓" : " ✗"),
    );
    let rows = shown();
    if (state.held) rows = rows.filter(([, i]) => e.truth[state.layer][i]?.some((t) => t !== null));
    const tally = rows.flatMap(([, i]) => e.tokens.map((_, k) => [e.layers[state.layer].value[i]?.[k], e.truth[state.layer][i]?.[k]]))
      .filter(([v, t]) => v !== null && v !== undefined && t !== null && t !== undefined);
    const agree = tally.filter(([v, t]) => v === t).length;
    title.textContent = `Layer ${state.layer} of ${depth()}`;
    count.textContent = tally.length ? `${agree} of ${tally.length} values as the program has them (${percent(agree / tally.length)})` : "the program holds nothing here";
    grid.draw({
      label: `Decoded variables at layer ${state.layer}`,
      corner: "variable",
      columns: columns(),
      rows: rows.map(([v, i]) => ({ text: v.name, title: `${v.name}: written at layer ${v.writer_layer}, last read by layer ${v.last_reader_layer ?? "none"}`,
        note: v.name === state.run.result ? "the result" : null, index: i })),
      cell: (i, k) => cellOf(rows[i][0], rows[i][1], state.layer, k, full),
      chosen: state.variable === null ? null : [rows.findIndex(([, i]) => i === state.variable), state.token],
      onChoose: (i, k) => {
        state.variable = rows[i][1];
        state.token = k;
        draw();
      },
    });
    drawDetail(full);
  }

  function drawDetail(full) {
    detail.hidden = state.variable === null;
    if (detail.hidden) return;
    const v = state.run.variables[state.variable];
    const e = example();
    detailTitle.textContent = `${v.name} over the layers`;
    const first = e.layers.findIndex((l, k) => {
      const t = e.truth[k]?.[state.variable]?.[state.token] ?? null;
      return t !== null && l.value[state.variable][state.token] === t;
    });
    const now = cellOf(v, state.variable, state.layer, state.token, full).tip;
    const since = first < 0 ? "nowhere as the program has it" : `first as the program has it at layer ${first}`;
    detailText.textContent = `Token ${state.token} “${visible(e.tokens[state.token])}”, ${since}. At layer ${state.layer}: ${now.slice(1).join("; ")}.`;
    over.draw({
      label: `${v.name}, layer by token`,
      corner: "layer",
      columns: columns(),
      rows: e.layers.map((_, l) => ({ text: `layer ${l}`, note: l === v.writer_layer ? "written" : null })),
      cell: (l, k) => cellOf(v, state.variable, l, k, full),
      chosen: [state.layer, state.token],
      onChoose: (l, k) => {
        state.token = k;
        setLayer(l);
      },
    });
  }

  function toAnswer() {
    state.token = example().answer_positions[0] ?? 0;
    draw();
    grid.show(example().answer_positions.at(-1) ?? 0);
    over.show(example().answer_positions.at(-1) ?? 0);
  }

  const slider = el("input", { type: "range", id: "layer", min: 0, step: 1, "data-role": "layer" });
  const value = el("output", { for: "layer" });
  function setLayer(layer) {
    state.layer = Math.min(Math.max(layer, 0), depth());
    state.token = Math.min(state.token ?? 0, example().tokens.length - 1);
    slider.max = depth();
    slider.value = state.layer;
    value.textContent = `${state.layer} of ${depth()}`;
    draw();
  }
  slider.addEventListener("input", () => setLayer(Number(slider.value)));
  const step = (by, text, label) => {
    const button = el("button", { type: "button", "aria-label": label }, text);
    button.addEventListener("click", () => setLayer(state.layer + by));
    return button;
  };

  const examples = el("span");
  function setRun(run) {
    state.run = run;
    state.example = 0;
    // Begin with the result at the answer, so that the second table is seen to be there.
    const result = run.variables.findIndex((v) => v.name === run.result);
    state.variable = result < 0 ? null : result;
    const names = run.examples.map((e, k) => [k, `${words(e.set)}: ${e.prompt.length > 44 ? `${e.prompt.slice(0, 20)} … ${e.prompt.slice(-20)}` : e.prompt}`]);
    examples.replaceChildren(choice("prompt", names, (k) => {
      state.example = Number(k);
      setLayer(state.layer);
      toAnswer();
    }, { "data-role": "example" }));
    setLayer(depth());
    toAnswer();
  }
  const held = el("input", { type: "checkbox", id: "held", "data-role": "held" });
  held.addEventListener("change", () => {
    state.held = held.checked;
    if (held.checked) state.variable = null;
    draw();
  });
  if (runs.length > 1) controls.append(choice("run", runs.map((r, i) => [i, r.name]), (i) => setRun(runs[i]), { "data-role": "run" }));
  controls.append(
    examples,
    el("span", { class: "control" }, el("label", { for: "layer" }, "layer"), step(-1, "−", "one layer down"), slider, step(1, "+", "one layer up"), value),
    el("span", { class: "control" }, held, el("label", { for: "held" }, "only what the program holds at this layer")),
  );
  setRun(runs[0]);
}

function start() {
  startTheme();
  startTips();
  losses();
  lengthCurves();
  scorecards();
  explorer();
  noise();
  swaps();
  document.documentElement.dataset.ready = "true";
}
