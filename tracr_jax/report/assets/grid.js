// A table of cells with one tab stop: arrow keys move, Enter or a click chooses. Heat maps and the explorer use it.

// A name may break after an underscore where there is little room.
const breakable = (name) => name.split(/(?<=_)/).flatMap((part, i) => (i ? [el("wbr"), part] : [part]));

// spec: {label, corner, columns: [{text, title?, mark?}], rows: [{text, title?}], cell(row, column) -> {text, level?, marks?, tip, said}
//        or null, onChoose?(row, column), chosen?: [row, column]}
function makeGrid(place) {
  const scroll = el("div", { class: "scroll grid" });
  place.append(scroll);
  // A cue at the side that hides something: a shadow beside the names, or a fading edge.
  const cue = () => {
    scroll.classList.toggle("cut-left", scroll.scrollLeft > 2);
    scroll.classList.toggle("cut-right", scroll.scrollWidth - scroll.clientWidth - scroll.scrollLeft > 2);
  };
  scroll.addEventListener("scroll", cue, { passive: true });
  new ResizeObserver(cue).observe(scroll);
  let at = [0, 0];
  let spec = null;
  let cells = [];

  function move(row, column) {
    row = Math.min(Math.max(row, 0), spec.rows.length - 1);
    column = Math.min(Math.max(column, 0), spec.columns.length - 1);
    cells[at[0]]?.[at[1]]?.setAttribute("tabindex", -1);
    at = [row, column];
    cells[row][column].setAttribute("tabindex", 0);
  }

  scroll.addEventListener("keydown", (e) => {
    if (!e.target.matches("td")) return;
    const [row, column] = at;
    const [last, end] = [spec.rows.length - 1, spec.columns.length - 1];
    const to = {
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      Home: e.ctrlKey ? [0, 0] : [row, 0], End: e.ctrlKey ? [last, end] : [row, end], PageUp: [row - 5, column], PageDown: [row + 5, column],
    }[e.key];
    if (to) {
      e.preventDefault();
      move(...to);
      reveal(cells[at[0]][at[1]]);
    } else if ((e.key === "Enter" || e.key === " ") && spec.onChoose) {
      e.preventDefault();
      spec.onChoose(row, column);
    }
  });

  // Focus, and scroll the table (never the page's width) so that the sticky first column does not cover the cell.
  function reveal(cell) {
    cell.focus({ preventScroll: true });
    const [box, here] = [scroll.getBoundingClientRect(), cell.getBoundingClientRect()];
    const names = scroll.querySelector("tbody th").getBoundingClientRect().width;
    if (here.left < box.left + names) scroll.scrollLeft -= box.left + names - here.left + 4;
    else if (here.right > box.right) scroll.scrollLeft += here.right - box.right + 4;
    const covered = parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop) || 0;
    if (here.top < covered || here.bottom > innerHeight) cell.scrollIntoView({ block: "nearest" });
    showTip(cell);
  }

  function draw(next) {
    const focused = scroll.contains(document.activeElement) && document.activeElement.matches("td");
    const left = scroll.scrollLeft;
    spec = next;
    cells = [];
    const head = () => el("tr", {}, el("th", { scope: "col", class: "corner" }, spec.corner),
      spec.columns.map((c) => {
        const th = el("th", { scope: "col", class: c.mark ? "marked" : "" }, c.text, c.mark ? el("small", {}, c.mark) : null);
        return c.title ? setTip(th, [c.title]) : th;
      }));
    const body = spec.rows.map((r, i) => {
      const name = el("th", { scope: "row" }, el("span", { class: "name" }, breakable(r.text)), r.note ? el("small", {}, r.note) : null);
      setTip(name, [r.title || r.text]);
      const row = spec.columns.map((_, j) => {
        const c = spec.cell(i, j) || { text: "", marks: ["void"], tip: null, said: "empty" };
        const level = c.level ?? null;
        const classes = [...(c.marks || []), level !== null ? "heat" : "", level > 0.76 ? "deep" : level > 0.52 ? "mid" : ""];
        if (spec.chosen && spec.chosen[0] === i && spec.chosen[1] === j) classes.push("chosen");
        const td = el("td", {
          class: classes.filter(Boolean).join(" "), tabindex: -1, "aria-label": c.said || (c.tip || []).join("; ") || null,
          style: level !== null ? { "--level": level.toFixed(3) } : {},
        }, c.text);
        if (c.tip) setTip(td, c.tip);
        td.addEventListener("click", () => {
          move(i, j);
          spec.onChoose?.(i, j);
        });
        td.addEventListener("focus", () => move(i, j));
        return td;
      });
      cells.push(row);
      return el("tr", {}, name, row);
    });
    scroll.replaceChildren(el("table", { role: "grid", "aria-label": spec.label }, 
      el("thead", {}, head()), el("tbody", {}, body), spec.rows.length > 14 ? el("tfoot", { "aria-hidden": "true" }, head()) : null));
    scroll.classList.toggle("many", spec.columns.length > 12);
    scroll.scrollLeft = left;
    cue();
    if (spec.rows.length && spec.columns.length) {
      move(...at);
      if (focused) cells[at[0]][at[1]].focus({ preventScroll: true });
    }
  }
  // Bring a column into view without moving the focus or the page: an answer stands far to the right of its prompt.
  function show(column) {
    const cell = cells[0]?.[column];
    if (!cell) return;
    const [box, here] = [scroll.getBoundingClientRect(), cell.getBoundingClientRect()];
    scroll.scrollLeft += here.right - box.right + 48;
  }
  return { draw, show };
}
