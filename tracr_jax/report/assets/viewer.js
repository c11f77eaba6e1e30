// One prompt at one layer, tokens across, variables down; below it a chosen variable over all layers.
// Shared by the report's token explorer and by the page of `tracr-jax explore`.
//
// A run is {variables: [{name, kind, values, writer_layer, unread?, alike?, last_reader_layer?}], result}, an example {tokens,
// answer_positions, layers: [{value, margin, between?}], truth, unknown?}. options: onDraw(state), mark(variable, layer, token) ->
// {marks, tip} or null.

// A value of a variable; the first of several that are encoded alike stands for all of them.
const valueOf = (variable, k) => variable.alike?.[k] ?? variable.values[k] ?? `value ${k}`;
function makeViewer(place, options = {}) {
  const state = { run: null, example: null, layer: 0, variable: null, token: null, held: false };
  const depth = () => state.example.layers.length - 1;

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

  // The margin at which a colour is full: nearly the largest of this prompt, whatever the layer, so that layers compare.
  function fullMargin() {
    const all = state.example.layers.flatMap((l) => l.margin.flat()).filter((m) => m !== null).sort((a, b) => a - b);
    return all[Math.floor(0.9 * (all.length - 1))] || 1;
  }

  function cellOf(variable, index, layer, token, full) {
    const cell = plainCell(variable, index, layer, token, full);
    const more = options.mark?.(index, layer, token);
    return more ? { ...cell, marks: [...cell.marks, ...more.marks], tip: [...cell.tip, ...more.tip] } : cell;
  }

  function plainCell(variable, index, layer, token, full) {
    const e = state.example;
    const value = e.layers[layer].value[index]?.[token] ?? null;
    const margin = e.layers[layer].margin[index]?.[token] ?? null;
    const truth = e.truth[layer]?.[index]?.[token] ?? null;
    const where = `${variable.name}, layer ${layer}, token ${token} “${visible(e.tokens[token])}”`;
    if (value === null) return { text: "·", marks: ["void"], tip: [where, variable.unread?.[layer] || "not read here"] };
    const several = variable.alike?.[value];
    const text = several && !several.includes(",") ? several : short(variable.values[value] ?? "?") + (several ? "…" : "");
    const between = e.layers[layer].between?.[index]?.includes(token) ?? false;
    const read = `read from the model: ${valueOf(variable, value)}${margin === null ? "" : `, margin ${number(margin)}`}`
      + (between ? "; in between, no value is near" : "");
    const marks = between ? ["weak"] : [];
    const shownAs = between ? `${text}?` : text;
    const level = Math.min(1, Math.max(0.04, (margin ?? 0) / full));
    if (e.unknown && layer >= variable.writer_layer) {
      return { text: shownAs, level, marks, tip: [where, read, "what the program holds is not known"] };
    }
    if (truth === null) {
      return { text: "·", marks: ["void"], tip: [where, variable.unread?.[layer] || "the program holds nothing here", `the adapter would say ${valueOf(variable, value)}`] };
    }
    const wrong = value !== truth;
    return {
      text: shownAs,
      level,
      marks: wrong ? [...marks, "wrong"] : marks,
      tip: [where, read, wrong ? `the program has: ${valueOf(variable, truth)}` : "as the program has it"],
    };
  }

  const short = (text) => ({ true: "T", false: "F", True: "T", False: "F" })[text] ?? (text.length > 7 ? `${text.slice(0, 6)}…` : visible(text));
  const columns = () => state.example.tokens.map((t, k) => ({
    text: visible(t), title: `token ${k}: ${visible(t)}`, mark: state.example.answer_positions.includes(k) ? "answer ↓" : null,
  }));
  // The layers at which something of a variable is shown, as a note beside those rows that are empty at this layer.
  function elsewhere(v, i) {
    const e = state.example;
    const layers = e.layers.map((l, k) => (e.unknown ? (k >= v.writer_layer ? l.value[i] : null) : e.truth[k][i])?.some((x) => x !== null) ? k : -1).filter((k) => k >= 0);
    if (layers.includes(state.layer)) return null;
    return !layers.length ? "not read" : layers.length === 1 ? `layer ${layers[0]}` : `layers ${layers[0]}–${layers.at(-1)}`;
  }
  const readUntil = (v) => (v.last_reader_layer === undefined ? "" : `, last read by layer ${v.last_reader_layer ?? "none"}`);

  function draw() {
    const e = state.example;
    const full = fullMargin();
    let rows = shown();
    if (state.held) {
      rows = rows.filter(([v, i]) => (e.unknown ? state.layer >= v.writer_layer : e.truth[state.layer][i]?.some((t) => t !== null)));
    }
    const tally = rows.flatMap(([, i]) => e.tokens.map((_, k) => [e.layers[state.layer].value[i]?.[k], e.truth[state.layer][i]?.[k]]))
      .filter(([v, t]) => v !== null && v !== undefined && t !== null && t !== undefined);
    const agree = tally.filter(([v, t]) => v === t).length;
    title.textContent = `Layer ${state.layer} of ${depth()}`;
    count.textContent = e.unknown ? `what the program holds is not known: ${e.unknown}`
      : tally.length ? `${agree} of ${tally.length} values as the program has them (${percent(agree / tally.length)})` : "the program holds nothing here";
    grid.draw({
      label: `Decoded variables at layer ${state.layer}`,
      corner: "variable",
      columns: columns(),
      rows: rows.map(([v, i]) => ({ text: v.name, title: `${v.name}: written at layer ${v.writer_layer}${readUntil(v)}`,
        note: elsewhere(v, i) ?? (v.name === state.run.result ? "the result" : null), index: i })),
      cell: (i, k) => cellOf(rows[i][0], rows[i][1], state.layer, k, full),
      chosen: state.variable === null ? null : [rows.findIndex(([, i]) => i === state.variable), state.token],
      onChoose: (i, k) => {
        state.variable = rows[i][1];
        state.token = k;
        draw();
      },
    });
    drawDetail(full);
    options.onDraw?.(state);
  }

  function drawDetail(full) {
    detail.hidden = state.variable === null;
    if (detail.hidden) return;
    const v = state.run.variables[state.variable];
    const e = state.example;
    detailTitle.textContent = `${v.name} over the layers`;
    const first = e.layers.findIndex((l, k) => {
      const t = e.truth[k]?.[state.variable]?.[state.token] ?? null;
      return t !== null && l.value[state.variable][state.token] === t;
    });
    const now = cellOf(v, state.variable, state.layer, state.token, full).tip;
    const since = first < 0 ? "nowhere as the program has it" : `first as the program has it at layer ${first}`;
    detailText.textContent = `Token ${state.token} “${visible(e.tokens[state.token])}”${e.unknown ? "" : `, ${since}`}. At layer ${state.layer}: ${now.slice(1).join("; ")}.`;
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

  // To the answer: it stands far to the right of its prompt.
  function toAnswer() {
    const at = state.example.answer_positions;
    state.token = at[0] ?? 0;
    draw();
    grid.show(at.at(-1) ?? 0);
    over.show(at.at(-1) ?? 0);
  }

  const slider = el("input", { type: "range", id: "layer", min: 0, step: 1, "data-role": "layer" });
  const value = el("output", { for: "layer" });
  function setLayer(layer) {
    state.layer = Math.min(Math.max(layer, 0), depth());
    state.token = Math.min(state.token ?? 0, state.example.tokens.length - 1);
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
  const held = el("input", { type: "checkbox", id: "held", "data-role": "held" });
  held.addEventListener("change", () => {
    state.held = held.checked;
    if (held.checked) state.variable = null;
    draw();
  });
  controls.append(
    el("span", { class: "control" }, el("label", { for: "layer" }, "layer"), step(-1, "−", "one layer down"), slider, step(1, "+", "one layer up"), value),
    el("span", { class: "control" }, held, el("label", { for: "held" }, "only what the program holds at this layer")),
  );

  // Another example of the same run keeps layer, variable and token; another run begins with the result at its answer.
  function show(run, example) {
    const fresh = state.run !== run;
    state.run = run;
    state.example = example;
    if (!fresh) return setLayer(state.layer);
    const result = run.variables.findIndex((v) => v.name === run.result);
    state.variable = result < 0 ? null : result;
    setLayer(depth());
  }
  return { controls, prompt, state, show, toAnswer, draw };
}
