// The token explorer: the examples of each run.

function explorer() {
  const place = document.querySelector('[data-figure="explorer"]');
  if (!place) return;
  const runs = RUNS.filter((r) => r.examples.length && !r.baseline);
  const viewer = makeViewer(place);

  function setExample(run, k) {
    const e = run.examples[k];
    viewer.prompt.replaceChildren(
      el("p", { class: "prompt-text" }, e.prompt),
      el("p", {}, "the model answers ", el("b", {}, visible(e.answer)), ", right is ", el("b", {}, visible(e.label)), e.answer === e.label ? " ✓" : " ✗"),
    );
    viewer.show(run, e);
    viewer.toAnswer();
  }

  const examples = el("span");
  function setRun(run) {
    const names = run.examples.map((e, k) => [k, `${words(e.set)}: ${e.prompt.length > 44 ? `${e.prompt.slice(0, 20)} … ${e.prompt.slice(-20)}` : e.prompt}`]);
    examples.replaceChildren(choice("prompt", names, (k) => setExample(run, Number(k)), { "data-role": "example" }));
    setExample(run, 0);
  }
  viewer.controls.prepend(...(runs.length > 1 ? [choice("run", runs.map((r, i) => [i, r.name]), (i) => setRun(runs[i]), { "data-role": "run" })] : []), examples);
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
