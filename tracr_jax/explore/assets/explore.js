// `tracr-jax explore`: a box for a prompt, both answers to it, its variables, and what follows when one is set.

const DATA = JSON.parse(document.getElementById("data").textContent);
const LATER = 300; // ms without a key after which the prompt is read

function explore() {
  const place = document.getElementById("explorer");
  const state = { found: null, changes: [], asked: 0 };

  const box = el("textarea", { id: "prompt", rows: 3, spellcheck: "false", autocomplete: "off", autocapitalize: "off", maxlength: 8000 });
  const status = el("p", { class: "status", role: "status" });
  const answers = el("div", { class: "both" });
  const setting = el("div");
  const now = el("div", { class: "now" }, answers, setting); // in sight wherever the table is scrolled to
  const chips = el("div", { class: "chips" });
  const head = DATA.prompts.map((p, k) => [k, p.replaceAll("\n", "↵")]);
  const again = el("button", { type: "button", "data-role": "reset" }, "Undo all changes");
  place.append(
    el("div", { class: "ask" },
      el("div", { class: "ask-line" }, el("label", { for: "prompt" }, "Prompt"), choice("example", [["", "choose one"], ...head], take, { "data-role": "example" })),
      box, status),
    now, chips, el("details", {}, el("summary", {}, "How to read and set a cell"), el("p", { class: "how" }, DATA.how)),
  );
  const viewer = makeViewer(place, { mark, onDraw: offer });
  new ResizeObserver(() => document.documentElement.style.setProperty("scroll-padding-top", `${now.offsetHeight}px`)).observe(now);
  again.addEventListener("click", () => change([]));

  function take(k) {
    if (k === "") return;
    box.value = DATA.prompts[Number(k)];
    ask([]);
  }

  let timer = 0;
  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => ask([]), LATER);
  });

  // The newest question counts: answers to older ones are dropped. `changes` are kept only if they can be made.
  async function ask(changes) {
    clearTimeout(timer);
    const mine = ++state.asked;
    const wait = setTimeout(() => mine === state.asked && say("reading…"), 150);
    const result = await question({ prompt: box.value, changes });
    clearTimeout(wait);
    if (mine !== state.asked) return;
    if (result.error) return say(result.error, true);
    const toEnd = !state.found || state.found.prompt !== result.prompt;
    state.found = result;
    state.changes = changes;
    say("");
    drawAnswers();
    drawChips();
    viewer.show(DATA, result.after || result.before);
    if (toEnd) viewer.toAnswer();
  }
  const change = (changes) => ask(changes);

  async function question(value) {
    try {
      const response = await fetch("/read", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) });
      return await response.json();
    } catch {
      return { error: "no answer: has tracr-jax explore ended?" };
    }
  }

  function say(text, bad) {
    status.textContent = text;
    status.classList.toggle("bad", Boolean(bad));
    place.classList.toggle("stale", Boolean(bad) && state.found !== null);
  }

  const quoted = (text) => (text === "" ? "nothing" : visible(text));
  function programSays(a) {
    if (a.unknown) return el("span", { class: "soft" }, "not known");
    const values = a.values.join(" ");
    if (!values) return el("span", { class: "soft" }, "nothing");
    if (a.program === null || a.program === values) return el("b", {}, values);
    return el("span", {}, el("b", {}, quoted(a.program)), el("small", {}, ` ${values}`));
  }

  function row(label, a, follows) {
    const verdict = a.agree === null ? ["v-none", "?", a.unknown || "cannot be compared"] : a.agree ? ["v-yes", "✓", follows ? "as predicted" : "the same"] : ["v-no", "✗", follows ? "not as predicted" : "different"];
    return el("tr", {}, el("th", { scope: "row" }, label), el("td", {}, el("b", {}, quoted(a.model))), el("td", {}, programSays(a)),
      el("td", { class: `judged ${verdict[0]}` }, el("span", { class: "verdict" }, el("span", { class: "mark", "aria-hidden": "true" }, verdict[1]), verdict[2])));
  }

  function drawAnswers() {
    const { before, after } = state.found;
    answers.replaceChildren(el("table", { class: "plain answers" },
      el("thead", {}, el("tr", {}, ["", "the model answers", "the program", ""].map((t) => el("th", { scope: "col" }, t)))),
      el("tbody", {}, row("as it is", before.answer, false), after ? row(state.changes.length > 1 ? "with your changes" : "with your change", after.answer, true) : null)));
  }

  const nameOf = (c) => `${DATA.variables[c.variable].name} = ${valueOf(DATA.variables[c.variable], c.value)}`;
  function drawChips() {
    const tokens = state.found.before.tokens;
    if (!state.changes.length) return chips.replaceChildren(el("span", { class: "soft" }, "Click a cell of the table and set another value: what the model then answers appears above."));
    chips.replaceChildren(...state.changes.map((c, k) => {
      const away = el("button", { type: "button", class: "chip", "aria-label": `undo ${nameOf(c)}` },
        el("b", {}, nameOf(c)), el("small", {}, ` at token ${c.token} “${visible(tokens[c.token] ?? "")}”, layer ${c.layer} `), "✕");
      away.addEventListener("click", () => change(state.changes.filter((_, i) => i !== k)));
      return away;
    }), state.changes.length > 1 ? again : "");
  }

  // Cells that were set, and those that read otherwise than without the changes.
  function mark(variable, layer, token) {
    const { before, after } = state.found;
    if (!after) return null;
    const set = state.changes.find((c) => c.variable === variable && c.layer === layer && c.token === token);
    if (set) return { marks: ["put"], tip: ["set by you"] };
    const was = before.layers[layer].value[variable]?.[token];
    if (was === undefined || was === after.layers[layer].value[variable]?.[token]) return null;
    if (!after.unknown && after.truth[layer][variable][token] === null) return null;
    return { marks: ["moved"], tip: [`before: ${valueOf(DATA.variables[variable], was)}`] };
  }

  // The control of the chosen cell.
  function offer({ variable, layer, token }) {
    if (variable === null) return;
    const v = DATA.variables[variable];
    const why = v.fixed[layer];
    const where = `token ${token} “${visible((state.found.after || state.found.before).tokens[token])}”, layer ${layer}`;
    if (why) {
      setting.replaceChildren(el("p", { class: "set-line soft" }, el("b", {}, v.name), ` cannot be set at layer ${layer}: ${why}.`));
      return;
    }
    const now = state.changes.find((c) => c.variable === variable && c.layer === layer && c.token === token);
    const shown = (state.found.after || state.found.before).layers[layer].value[variable][token];
    // Without directions of its own a value is taken from a prompt that holds it.
    const can = new Set([...state.found.settable[variable], shown, now?.value]);
    const values = v.values.map((_, k) => [k, `${visible(valueOf(v, k))}${k === shown ? " (read now)" : ""}`]).filter(([k]) => can.has(k));
    const none = Object.keys(v.alike ?? {}).length ? 0 : v.values.length - values.length;
    const last = v.last_reader_layer;
    const unread = last === undefined || (last !== null && layer <= last) ? null
      : last === null ? "nothing in the program reads it" : `the program reads it last at layer ${last}: from here its answer cannot change`;
    const select = choice([el("b", {}, v.name), ` at ${where}, is set to`], values, (k) => {
      const others = state.changes.filter((c) => c !== now);
      change([...others, { variable, layer, token, value: Number(k) }]);
    }, { "data-role": "set" });
    select.querySelector("select").value = String(now ? now.value : shown);
    setting.replaceChildren(el("p", { class: "set-line" }, select,
      none ? el("small", {}, ` ${none} of ${v.values.length} values are held by no prompt read so far`) : null,
      unread ? el("small", { class: "unread" }, unread) : null));
  }

  box.value = DATA.prompts[0];
  return ask([]);
}

async function start() {
  startTheme();
  startTips();
  await explore();
  document.documentElement.dataset.ready = "true";
}
