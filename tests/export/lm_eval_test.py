"""Our models in the lm-evaluation-harness, beside its own Hugging Face adapter on the same small random models."""

import dataclasses
import json

import numpy as np
import pytest

from tests.helpers.lm_eval_parts import LONG, POSITIONS, PROMPTS, copied, instances, opened, theirs
from tests.helpers.programs_parts import SMALL, write_tasks
from tests.helpers.random_models import TASK_WORDS, write_random_gpt2
from tracr_jax.errors import UserError
from tracr_jax.export import export_run
from tracr_jax.injection import inject
from tracr_jax.lm.tokenizer import END_OF_TEXT as BOS
from tracr_jax.runs.model import open

pytestmark = [
    pytest.mark.parity,
    # Of the harness and what it imports; none is about us.
    pytest.mark.filterwarnings("ignore:::lm_eval|evaluate|datasets|torch|transformers|sacrebleu|rouge_score"),
]


def test_loglikelihood(lm_pair):
    ours = lm_pair[0]
    pairs = (
        [(p, " yes") for p in PROMPTS]
        + [
            ("", " the number of x"),  # without context
            ("What is the ", "number"),  # the space goes with the continuation
            (LONG, " x y z"),  # longer than the model
            (PROMPTS[0], LONG[: len(LONG) // 5]),
            ("é🙂", " no"),
        ]
    )
    # What the model itself says, where that is text that becomes the same token again.
    asked = [*PROMPTS, *(f"{w} yes x" for w in TASK_WORDS[5:25])]
    said = ours.generate_until(instances("generate_until", [(p, {"max_gen_toks": 1}) for p in asked]))
    pairs += [(p, t) for p, t in zip(asked, said, strict=True) if t.strip() and t.isascii()]
    got, expected = (m.loglikelihood(instances("loglikelihood", pairs)) for m in lm_pair)
    np.testing.assert_allclose([v for v, _ in got], [v for v, _ in expected], rtol=1e-4)
    assert [g for _, g in got] == [g for _, g in expected]
    assert {g for _, g in got} == {True, False}


def test_rolling_loglikelihood_scores_every_token_once(lm_pair):
    ours = lm_pair[0]
    texts = [(PROMPTS[0],), ("",), (LONG,), (LONG[: len(LONG) // 2],)]
    assert len(ours.tok_encode(LONG)) > 2 * POSITIONS
    got, expected = (m.loglikelihood_rolling(instances("loglikelihood_rolling", texts)) for m in lm_pair)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert got[1] == 0


def test_generate_until(lm_pair):
    free = {"max_gen_toks": 50, "do_sample": False}  # in two rounds
    requests = [(p, dict(free)) for p in [*PROMPTS, LONG]]
    got, expected = (m.generate_until(instances("generate_until", requests)) for m in lm_pair)
    assert got == expected
    assert len(set(got)) > 1
    # Some texts end by themselves, others at the limit.
    shorter = lm_pair[0].generate_until(
        instances("generate_until", [(p, {"max_gen_toks": 30}) for p, _ in requests[:6]])
    )
    assert {a == b for a, b in zip(shorter, got, strict=False)} == {True, False}
    stop = max(got, key=len)[8:10]
    requests = [(p, {"until": [stop], "max_gen_toks": n}) for p in PROMPTS for n in (5, 50)]
    got, expected = (m.generate_until(instances("generate_until", requests)) for m in lm_pair)
    assert got == expected
    assert not any(stop in text for text in got)


def local_tasks():
    """Tasks of each kind whose documents are made here."""
    import datasets
    from lm_eval.api.task import ConfigurableTask

    rng = np.random.default_rng(3)
    # Texts that end alike would meet in HFLM's cache of contexts, which then scores the wrong positions of them.
    docs = [
        {
            "question": " ".join(rng.choice(TASK_WORDS, 6)),
            "answer": int(rng.integers(2)),
            "text": LONG[k * 9 :][:250],
        }
        for k in range(12)
    ]
    data = datasets.Dataset.from_list(docs)
    common = {"custom_dataset": lambda **_: {"test": data}, "test_split": "test", "doc_to_text": "{{question}}"}
    choice = common | {
        "task": "local_choice", "output_type": "multiple_choice", "doc_to_choice": [" yes", " no"],
        "doc_to_target": "answer", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    rolling = common | {
        "task": "local_text", "output_type": "loglikelihood_rolling", "doc_to_text": "",
        "doc_to_target": "{{text}}", "metric_list": [{"metric": "word_perplexity"}],
    }  # fmt: skip
    return [ConfigurableTask(config=c) for c in (choice, rolling)]


def results(model):
    import lm_eval
    from lm_eval.tasks import TaskManager

    bare = TaskManager(include_defaults=False)  # reading the harness's thousands of tasks takes a minute
    found = lm_eval.simple_evaluate(model, tasks=local_tasks(), bootstrap_iters=0, task_manager=bare)["results"]
    return {task: {k: v for k, v in values.items() if "stderr" not in k and isinstance(v, float)}
            for task, values in found.items()}  # fmt: skip


def test_a_whole_task_without_a_network(lm_pair):
    got, expected = map(results, lm_pair)
    assert list(got) == list(expected) == ["local_choice", "local_text"]
    for task in got:
        assert got[task].keys() == expected[task].keys() != set()
        np.testing.assert_allclose(list(got[task].values()), list(expected[task].values()), rtol=1e-3)


def test_a_run_and_its_export_are_the_same_model(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACR_JAX_CACHE", str(tmp_path / "cache"))
    write_random_gpt2(tmp_path / "lm", num_blocks=6, width=32, heads=2)
    write_tasks(tmp_path)
    config = dataclasses.replace(SMALL, steps=2, eval_items=2)
    run = inject(
        f"{tmp_path}/tasks.py:ODD", lm=str(tmp_path / "lm"), config=config, folder=tmp_path / "run", progress=False
    )
    export_run(open(run.folder), tmp_path / "export", evaluation=run.evaluation)
    pairs = instances("loglikelihood", [(p, " yes") for p in PROMPTS])
    names = (("run", {}), ("export", {}), ("run", {"original": True}), ("lm", {}))
    trained, exported, original, base = (opened(tmp_path / n, **o).loglikelihood(pairs) for n, o in names)
    assert trained == exported != original
    assert original == base
    with pytest.raises(UserError, match="not a run folder"):
        opened(tmp_path / "lm", original=True)


def template(folder):
    """A post-processor as in Llama 3's tokenizer.json: the BOS in front, whatever the settings say."""
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    front = [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing", "single": front, "pair": [*front, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {BOS: {"id": BOS, "ids": [words[BOS]], "tokens": [BOS]}},
    }  # fmt: skip


@pytest.mark.parametrize("settings", ["plain", "settings say yes", "post-processor", "settings say no"])
def test_a_bos_stands_where_hflm_puts_it(lm_folder, tmp_path, settings):
    config = {"settings say yes": {"add_bos_token": True}, "settings say no": {"add_bos_token": False}}
    processor = template(lm_folder) if settings in ("post-processor", "settings say no") else None
    config = config.get(settings, {}) | {"bos_token": BOS}
    changed = copied(lm_folder, tmp_path / "lm", config=config, post_processor=processor)
    for option in (None, True, False):
        ours, reference = opened(changed, add_bos_token=option), theirs(changed, add_bos_token=option)
        for text in (PROMPTS[0], BOS + PROMPTS[1], "", LONG):
            for special in (None, True, False):
                got, expected = ours.tok_encode(text, special), reference.tok_encode(text, special)
                assert got == expected, (option, text, special)
        there = bool(processor) if option is None else option
        assert (ours.tok_encode(" x")[0] == ours.prefix_token_id) == there
        assert ours.tok_encode(BOS + " x").count(ours.prefix_token_id) == 1
        assert ours.tok_encode(LONG, left_truncate_len=3) == reference.tok_encode(LONG, left_truncate_len=3)


@pytest.mark.parametrize("option", [True, False])
def test_scores_and_texts_are_hflms_with_a_bos_and_without(lm_folder, tmp_path, option):
    changed = copied(lm_folder, tmp_path / "lm", config={"bos_token": BOS})
    # One text in a batch: HFLM decides about the BOS of a batch by its first text.
    ours, reference = opened(changed, add_bos_token=option), theirs(changed, batch_size=1, add_bos_token=option)
    pairs = [(p, " yes") for p in PROMPTS] + [("", " the number"), (BOS + PROMPTS[0], " x"), (LONG, " x y z")]
    asked = [*PROMPTS, *(f"{w} yes x" for w in TASK_WORDS[5:25])]
    said = ours.generate_until(instances("generate_until", [(p, {"max_gen_toks": 1}) for p in asked]))
    pairs += [(p, t) for p, t in zip(asked, said, strict=True) if t.strip() and t.isascii()]
    got, wanted = (m.loglikelihood(instances("loglikelihood", pairs)) for m in (ours, reference))
    np.testing.assert_allclose([v for v, _ in got], [v for v, _ in wanted], rtol=1e-4)
    assert [g for _, g in got] == [g for _, g in wanted]
    assert {g for _, g in got} == {True, False}
    texts = [(PROMPTS[0],), (LONG,), (BOS + PROMPTS[1],)]
    rolling = [m.loglikelihood_rolling(instances("loglikelihood_rolling", texts)) for m in (ours, reference)]
    np.testing.assert_allclose(*rolling, rtol=1e-4)
    rows = [(p, {"max_gen_toks": 12}) for p in [*PROMPTS, LONG, BOS + PROMPTS[0]]]
    assert ours.generate_until(instances("generate_until", rows)) == reference.generate_until(
        instances("generate_until", rows)
    )
    # The option moves the numbers.
    other = opened(changed, add_bos_token=not option).loglikelihood(instances("loglikelihood", pairs[:1]))
    assert other[0][0] != pytest.approx(got[0][0], rel=1e-3)


def test_a_bos_that_cannot_be_given_is_refused(lm_folder, tmp_path):
    with pytest.raises(UserError, match="add_bos_token: the tokenizer has no bos_token"):
        opened(copied(lm_folder, tmp_path / "none", config={"bos_token": None}), add_bos_token=True)
    behind = template(lm_folder)
    behind["single"].append(behind["single"][0])
    closed = copied(lm_folder, tmp_path / "eos", config={"bos_token": BOS}, post_processor=behind)
    with pytest.raises(UserError, match="after each text"):
        opened(closed)
    assert opened(closed, add_bos_token=False).tok_encode(" x") == opened(lm_folder).tok_encode(" x")


@pytest.mark.parametrize("blank", [" ", "\n", "   "])
def test_a_context_of_blanks_is_scored_as_one_without_context(lm_folder, blank):
    """The harness moves them into the continuation; nothing of a text may be free."""
    model = opened(lm_folder)
    blanks = model.loglikelihood(instances("loglikelihood", [(blank, "x"), (blank, "y x")]))
    without = model.loglikelihood(instances("loglikelihood", [("", f"{blank}x"), ("", f"{blank}y x")]))
    np.testing.assert_allclose(np.array(blanks), np.array(without), rtol=1e-6)
    assert all(value < -0.01 for value, _ in blanks)
