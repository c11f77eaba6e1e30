"""The table of dyck over seeds: what it shows of its files, and that the page holds it."""

from experiments import dyck_seeds, marked
from tracr_jax.stats import share


def main_job(right):
    sets = {name: {"injected": share(right, 10)} for name in dyck_seeds.SETS}
    evaluation = {"items_per_set": 10, "sets": sets, "retention": {"original": 40.0, "injected": 42.0}}
    return {"evaluation": evaluation, "run": {"times": {"training_s": 120.0}}}


def swaps(*right, **more):
    cells = [{"followed": {"answer": {"swap": share(n, 10), "outside": share(1, 10)}}} for n in right]
    cells.append({"followed": {"answer": {"swap": share(0, 0), "outside": share(0, 0)}}})  # no base was right
    return {"cells": cells, "used": ["a"], "causal_abstraction_error": {"mapped": 0.25}} | more


def test_each_seed_has_its_number_and_what_was_not_measured_says_so():
    runs = {
        "one": [(main_job(7), None)],
        "two": [(main_job(8), swaps(10, 10, 4)), (main_job(9), swaps(9, used_by_program=["a", "b"]))],
    }
    rows = {
        r.split("|")[1].strip(): r.split("|")[2:-1] for r in dyck_seeds.table(runs).splitlines() if r[:1] == "|"
    }
    found = {name: [x.strip() for x in cells] for name, cells in rows.items()}
    assert found["spaced"] == ["70", "80, 90"]
    assert found["perplexity, held-out text"] == ["×1.050", "×1.050, ×1.050"]
    assert found["followed"] == ["–", "80, 90"]
    assert found["followed, median over cells"] == ["–", "100, 90"]
    assert found["used"] == ["–", "1, 1/2"]
    assert found["outside"] == ["–", "10, 10"]


def test_the_page_holds_the_table_of_the_files():
    page = (dyck_seeds.HERE / "results.md").read_text(encoding="utf-8")
    table = dyck_seeds.table(dyck_seeds.recorded())
    assert marked.between(page, dyck_seeds.NAME) == table, "run: python -m experiments.dyck_seeds"
