"""The retention table on models worked out by hand, and the command with its baseline."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from tests.helpers.random_models import word_tokenizer
from tests.helpers.retention_models import Summing, always, by_hand, log_probabilities, table
from tracr_jax import cli
from tracr_jax.config_file import to_dict
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, write_json
from tracr_jax.measure.language import glue, suite, texts
from tracr_jax.measure.language.suite import measure_retention
from tracr_jax.presets import preset
from tracr_jax.runs import model as opened

TOKENIZER = word_tokenizer([" cat", " dog", " sea", " yes", " no", " positive", " negative"])
V, POSITIONS = TOKENIZER.vocab_size, 24
CAT = TOKENIZER.single_id(" cat")
ORIGINAL, INJECTED, BASELINE = (table(V, seed=s) for s in (3, 4, 5))
LAMBADA = ["A dog dog cat", "A" + 40 * " cat" + " sea", "Say xcat", "one", "A dog cat", "the dog saw a cat"]
LINES = "Ho!\n\nA dog, a cat\nx\n" + 9 * " sea" + "\n"
WIKI = 30 * "A dog saw the sea. " + "End"


@pytest.fixture(autouse=True)
def small_sets(monkeypatch):
    monkeypatch.setattr(texts, "lambada_texts", lambda: LAMBADA)
    monkeypatch.setattr(texts, "shakespeare", lambda: LINES)
    monkeypatch.setattr(texts, "wikitext", lambda: WIKI)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv(glue.DATA_VARIABLE, raising=False)


def run_of(original, injected=None, *, positions=POSITIONS, tokenizer=TOKENIZER, **more):
    """What the suite reads of a run."""
    windows = np.random.default_rng(0).integers(0, V, (5, 12)).astype(np.int32)
    base = SimpleNamespace(params=original)
    return SimpleNamespace(
        model=Summing(V, positions),
        params=original if injected is None else injected,
        original=base,
        base=base,
        program=SimpleNamespace(tokenizer=tokenizer, **more),
        valid_text=windows,
        digest="0" * 64,
    )


def rows_of(retention):
    return {r["name"]: r for r in retention["rows"]}


def test_every_number_is_that_of_plain_loops():
    run = run_of(ORIGINAL, INJECTED)
    result = measure_retention(run, baseline=BASELINE)
    rows = rows_of(result)
    columns = (("original", ORIGINAL), ("injected", INJECTED), ("baseline", BASELINE))

    def nats(logits, row):
        return [n for n, _ in by_hand(logits, row)]

    def stream(text, logits):
        ids = TOKENIZER.encode(text)
        total = 0.0
        for position in range(1, len(ids)):
            start = (position - 1) // POSITIONS * POSITIONS
            here = logits[sum(ids[start:position]) % V]
            total -= log_probabilities(here)[ids[position]]
        return math.exp(total / (len(ids) - 1))

    for name, logits in columns:
        lines = [TOKENIZER.encode(line) for line in ("Ho!", "A dog, a cat", 9 * " sea")]
        mean = np.mean([math.exp(np.mean(nats(logits, line))) for line in lines])
        assert rows["Tiny Shakespeare, mean over lines"][name] == pytest.approx(mean, rel=1e-4)
        assert rows["Tiny Shakespeare, corpus"][name] == pytest.approx(stream(LINES, logits), rel=1e-4)
        assert rows["WikiText-2"][name] == pytest.approx(stream(WIKI, logits), rel=1e-4)
        held_out = np.mean([nats(logits, row) for row in run.valid_text.tolist()])
        assert rows["held-out text"][name] == pytest.approx(math.exp(held_out), rel=1e-4)
        kl = 0.0
        for row in run.valid_text.tolist():
            for s in range(len(row)):
                log_p, log_q = (log_probabilities(t[sum(row[: s + 1]) % V]) for t in (ORIGINAL, logits))
                kl += np.sum(np.exp(log_p) * (log_p - log_q)) / run.valid_text.size
        assert rows["KL to the original"][name] == pytest.approx(kl, rel=1e-4, abs=1e-6)
    assert rows["WikiText-2"]["items"] == len(TOKENIZER.encode(WIKI)) - 1
    assert rows["Tiny Shakespeare, mean over lines"]["items"] == 3
    assert "1 too short" in rows["Tiny Shakespeare, mean over lines"]["note"]
    assert set(result["about"]["seconds"]) >= {"LAMBADA", "WikiText-2", "SST-2"}
    assert (result["about"]["positions"], result["about"]["window"]) == (24, 24)


def test_lambada_of_a_model_that_always_says_cat():
    last = TOKENIZER.single_id("t")
    rows = rows_of(measure_retention(run_of(always(V, CAT), always(V, last))))
    token, word = rows["LAMBADA, last token"], rows["LAMBADA, last word"]
    # " cat" ends three of the five passages that can be scored; "t" only the spelled " xcat", and not all of it.
    assert token["items"] == word["items"] == 5
    assert (token["original"], word["original"]) == (3 / 5, 3 / 5)
    assert (token["injected"], word["injected"]) == (1 / 5, 0)
    low, high = token["intervals"]["original"]
    assert 0.2 < low < 3 / 5 < high < 0.9
    assert "all 6 texts; 1 cut on the left to the model's 24 positions, 1 too short" in token["note"]
    assert token["higher_is_better"]
    assert not rows["WikiText-2"]["higher_is_better"]


def test_the_first_items_of_each_set(monkeypatch):
    rows = rows_of(measure_retention(run_of(ORIGINAL, INJECTED), items=2))
    assert rows["LAMBADA, last token"]["items"] == 2
    assert rows["LAMBADA, last token"]["note"].startswith("the first 2 of 6 texts")
    assert rows["Tiny Shakespeare, mean over lines"]["items"] == 2
    assert "the first 2 of 4 lines" in rows["Tiny Shakespeare, mean over lines"]["note"]
    assert rows["WikiText-2"]["items"] == 2 * POSITIONS
    assert "the first 2 of" in rows["WikiText-2"]["note"]
    assert rows["held-out text"]["items"] == 2 * 11
    assert rows["KL to the original"]["items"] == 2 * 12
    monkeypatch.setattr(suite, "DEFAULT_TEXTS", 3)
    assert rows_of(measure_retention(run_of(ORIGINAL, INJECTED)))["LAMBADA, last word"]["items"] == 3
    assert rows_of(measure_retention(run_of(ORIGINAL, INJECTED), full=True))["LAMBADA, last word"]["items"] == 5
    with pytest.raises(UserError, match="items of each set must be at least 1, got 0"):
        measure_retention(run_of(ORIGINAL, INJECTED), items=0)


def test_what_is_not_there_is_a_note_and_null():
    rows = rows_of(measure_retention(run_of(ORIGINAL, INJECTED), items=1))
    for name in ("SST-2", "MRPC"):
        assert rows[name]["note"].startswith("not run: no data on disk (--data-dir), and ")
        assert [rows[name][c] for c in suite.COLUMNS] == [None] * 3
    assert rows["WikiText-2"]["baseline"] is None
    assert rows["WikiText-2"]["note"].endswith("baseline not run: no --baseline")


def test_no_last_word_fits_a_very_short_model(monkeypatch):
    monkeypatch.setattr(texts, "lambada_texts", lambda: ["A crocodile", "An elephant"])
    rows = rows_of(measure_retention(run_of(ORIGINAL, INJECTED, positions=6), items=2))
    assert rows["LAMBADA, last word"]["note"] == "not run: no last word fits the model's 6 positions"
    assert rows["LAMBADA, last word"]["injected"] is None


def test_a_diverged_model_is_a_note_not_a_file_that_cannot_be_written():
    wild = always(V, CAT) * 1e4
    result = measure_retention(run_of(ORIGINAL, INJECTED), baseline=wild, items=2)
    row = rows_of(result)["held-out text"]
    assert row["baseline"] is None
    assert row["injected"] is not None
    assert "baseline not finite" in row["note"]
    assert "not run" not in row["note"]
    json.dumps(result, allow_nan=False)


def test_sst2_and_mrpc_from_disk(tmp_path):
    lines = [{"sentence": "fine", "label": 1}, {"sentence": "fun", "label": 1}, {"sentence": "dull", "label": 0}]
    (tmp_path / "sst2.jsonl").write_text("\n".join(map(json.dumps, lines)))
    says_positive = always(V, TOKENIZER.single_id(" positive"))
    says_negative = always(V, TOKENIZER.single_id(" negative"))
    rows = rows_of(measure_retention(run_of(says_positive, says_negative, positions=400), data_dir=tmp_path))
    assert (rows["SST-2"]["original"], rows["SST-2"]["injected"]) == (2 / 3, 1 / 3)
    assert "all 3 validation examples; two shots, always the commoner answer 0.667" in rows["SST-2"]["note"]
    assert rows["MRPC"]["note"].startswith(f"not run: no MRPC/dev.tsv or mrpc.jsonl in {tmp_path}, and ")
    # A model with few positions sees the end of the prompt.
    cut = rows_of(measure_retention(run_of(says_positive, INJECTED), data_dir=tmp_path, items=2))["SST-2"]
    assert "2 cut on the left to the model's 24 positions" in cut["note"]
    assert cut["items"] == 2


def test_answers_with_the_same_first_token_cannot_be_compared(tmp_path):
    (tmp_path / "sst2.jsonl").write_text('{"sentence": "fine", "label": 1}')
    tokenizer = word_tokenizer([" cat"])  # " positive" and " negative" both begin with a space
    rows = rows_of(measure_retention(run_of(ORIGINAL, INJECTED, tokenizer=tokenizer), data_dir=tmp_path, items=1))
    assert rows["SST-2"]["note"] == "not run: ' negative' and ' positive' begin with the same token"


def test_the_command_and_the_runs_it_refuses(tmp_path, monkeypatch, capsys):
    config = preset("variable", task="dyck", lm="a")
    trained = {"variable": INJECTED, "finetune": BASELINE}
    given_to = {}

    def stand_in(folder, **given):
        given_to[folder.name] = given
        return run_of(ORIGINAL, trained[folder.name], config=config)

    monkeypatch.setattr(opened, "open", stand_in)
    monkeypatch.setattr(suite, "open", stand_in)
    for name in trained:
        write_json(tmp_path / name / "config.json", to_dict(preset(name, task="dyck", lm="a")))
    folder, baseline = str(tmp_path / "variable"), str(tmp_path / "finetune")
    cli.main(["retention", folder, "--baseline", baseline, "--items", "2"])
    assert given_to["finetune"]["lm"].params is ORIGINAL  # it is not loaded a second time
    out = capsys.readouterr().out
    assert "fine-tuned" in out
    assert "SST-2: not run: " in out
    result = read_json(tmp_path / "variable" / "retention.json")
    assert result["about"]["baseline"] == baseline
    assert result["about"]["packages"]["jax"]
    row = rows_of(result)["held-out text"]
    assert len({row[c] for c in suite.COLUMNS}) == 3
    assert f"{row['injected']:.2f}" in out

    def refused(message, *argv):
        with pytest.raises(SystemExit):
            cli.main(["retention", folder, *argv])
        assert message in capsys.readouterr().err

    refused("an injected run (alignment variable), no fine-tuning baseline", "--baseline", folder)
    refused("no such folder", "--baseline", str(tmp_path / "none"))
    refused("not a run folder", "--baseline", str(tmp_path))
    refused("no such folder", "--data-dir", str(tmp_path / "none"))
    refused("did you mean --items", "--item", "3")
    for name, value in (("task", "count"), ("lm", "b"), ("onto", "earlier")):
        changed = dataclasses.replace(preset("finetune", task="dyck", lm="a"), **{name: value})
        write_json(tmp_path / "finetune" / "config.json", to_dict(changed))
        ours = getattr(config, name) or "none"
        refused(f"its {name} is {value}, the run's {ours}", "--baseline", baseline)
