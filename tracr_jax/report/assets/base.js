// Building blocks: elements from text only (nothing is ever parsed as HTML), tooltips, theme.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// As in words.py: 0 and 100 are said of nothing else.
const whole = (x) => String(x > 0 && x < 1 ? Math.min(Math.max(Math.round(100 * x), 1), 99) : Math.round(100 * x));
function tenths(x) {
  const text = (100 * x).toFixed(1);
  return text === "0.0" && x > 0 ? "<0.1" : text === "100.0" && x < 1 ? ">99.9" : text;
}
const ends = (x) => ((x >= 0.99 && x < 1) || (x > 0 && x < 0.01) ? tenths(x) : whole(x));
const percent = (x) => (x === null || x === undefined ? "–" : `${ends(x)}\u00a0%`);
const exact = (x) => (x === null || x === undefined ? "–" : `${tenths(x)}\u00a0%`);
const interval = (m) => `${exact(m.accuracy)} (${ends(m.low)}–${ends(m.high)}), ${m.right} of ${m.total}`;
const words = (name) => name.replaceAll("_", " ");

function number(x) {
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size >= 1e5 || size < 1e-3 ? x.toExponential(1) : String(Number(x.toPrecision(3)));
}

// Spaces, line ends and control characters of a token, made visible.
function visible(token) {
  return token
    .replaceAll(" ", "␣")
    .replaceAll("\n", "↵")
    .replaceAll("\t", "⇥")
    .replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g, (c) =>
      `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// One tooltip for everything that has a text: data-tip in HTML, or an entry here. Shown on hover and on focus.
const tips = new WeakMap();
const tipBox = document.getElementById("tip");

function setTip(node, lines) {
  tips.set(node, lines.filter((l) => l !== null && l !== undefined && l !== ""));
  return node;
}

function tipOwner(node) {
  while (node && node instanceof Element) {
    if (tips.has(node) || node.dataset?.tip) return node;
    node = node.parentNode;
  }
  return null;
}

function showTip(node) {
  const lines = tips.get(node) || node.dataset.tip.split("\n");
  tipBox.replaceChildren(...lines.map((l, i) => el("div", { class: i ? "" : "first" }, l)));
  tipBox.hidden = false;
  const at = node.getBoundingClientRect();
  const box = tipBox.getBoundingClientRect();
  const room = document.documentElement.clientWidth;
  const left = Math.min(Math.max(8, at.left + at.width / 2 - box.width / 2), Math.max(8, room - box.width - 8));
  const above = at.top - box.height - 8;
  tipBox.style.left = `${left}px`;
  tipBox.style.top = `${above > 4 ? above : at.bottom + 8}px`;
}

function hideTip() {
  tipBox.hidden = true;
}

function startTips() {
  document.addEventListener("pointerover", (e) => {
    const owner = tipOwner(e.target);
    if (owner) showTip(owner);
    else hideTip();
  });
  document.addEventListener("focusin", (e) => {
    const owner = tipOwner(e.target);
    if (owner && e.target.matches(":focus-visible")) showTip(owner);
    else hideTip();
  });
  document.addEventListener("focusout", hideTip);
  document.addEventListener("scroll", hideTip, { capture: true, passive: true });
  document.addEventListener("keydown", (e) => e.key === "Escape" && hideTip());
}

// Light or dark: the system's choice until the button is pressed; the choice is kept where storage is allowed.
function startTheme() {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem("tracr_jax-theme");
  } catch {
    // a page from disk may have no storage
  }
  const dark = () => (chosen ? chosen === "dark" : system.matches);
  const apply = () => {
    if (chosen) document.documentElement.dataset.theme = chosen;
    button.textContent = dark() ? "Light theme" : "Dark theme";
  };
  button.addEventListener("click", () => {
    chosen = dark() ? "light" : "dark";
    try {
      localStorage.setItem("tracr_jax-theme", chosen);
    } catch {
      // as above
    }
    apply();
  });
  system.addEventListener("change", apply);
  button.hidden = false;
  apply();
}

let nextId = 0;

// A labelled choice; `options` are [value, text] pairs.
function choice(label, options, onChange, attributes) {
  const id = `choice-${nextId++}`;
  const select = el("select", { id, ...attributes }, options.map(([value, text]) => el("option", { value }, text)));
  select.addEventListener("change", () => onChange(select.value));
  return el("span", { class: "control" }, el("label", { for: id }, label), select);
}

// Redraw when the place gets another width, and only then.
function responsive(node, draw) {
  let width = 0;
  new ResizeObserver(() => {
    const now = Math.floor(node.clientWidth);
    if (now && now !== width) {
      width = now;
      draw(width);
    }
  }).observe(node);
}
