"""Our models in the lm-evaluation-harness, beside its own Hugging Face adapter on the same small random models."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.helpers.programs_parts import SMALL, TASKS
from tracr_jax.errors import UserError
from tracr_jax.export import export_run
from tracr_jax.injection import inject
from tracr_jax.lm.convert import save_hf_folder
from tracr_jax.lm.gpt2 import GPT2Config
from tracr_jax.lm.llama import LlamaConfig
from tracr_jax.lm.load import TASK_WORDS, random_lm, write_random_gpt2
from tracr_jax.lm.tokenizer import word_tokenizer
from tracr_jax.runs.model import open

pytestmark = [
    pytest.mark.parity,
    # Of the harness and what it imports; none is about us.
    pytest.mark.filterwarnings("ignore:::lm_eval|evaluate|datasets|torch|transformers|sacrebleu|rouge_score"),
]

POSITIONS = 64
LONG = " ".join(f"{k} is the number of words in this text;" for k in range(12))
PROMPTS = [" ".join(TASK_WORDS[k : k + n]) for k, n in ((0, 3), (4, 9), (9, 1), (11, 14), (2, 7), (6, 5))]


def opened(folder, **options):
    from tracr_jax.export.lm_eval import TracrLM

    return TracrLM(folder, **options)


def theirs(folder):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)


def instances(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def pair(request, tmp_path_factory):
    """(our adapter, theirs) on one folder, whose model tells tokens clearly apart and often ends a text."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = word_tokenizer(TASK_WORDS)
    size = tokenizer.vocab_size
    if request.param == "gpt2":
        config = GPT2Config(vocab_size=size, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=2)
    else:
        config = LlamaConfig(
            vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, max_position_embeddings=POSITIONS, rope_theta=10000.0,
        )  # fmt: skip
    model, params = random_lm(config)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.3 * rng.standard_normal(x.shape).astype(np.float32), params)
    # The tied embedding's row of the end of text is longer than the others: some texts end, and others do not.
    longer = {"gpt2": 3, "llama": 2}[request.param]
    params = jax.tree.map(lambda x: x.at[tokenizer.eos_id].multiply(longer) if x.shape[0] == size else x, params)
    save_hf_folder(folder, model, params, tokenizer)
    return opened(folder), theirs(folder)


def test_loglikelihood(pair):
    ours = pair[0]
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
    got, expected = (m.loglikelihood(instances("loglikelihood", pairs)) for m in pair)
    np.testing.assert_allclose([v for v, _ in got], [v for v, _ in expected], rtol=1e-4)
    assert [g for _, g in got] == [g for _, g in expected]
    assert {g for _, g in got} == {True, False}


def test_rolling_loglikelihood_scores_every_token_once(pair):
    ours = pair[0]
    texts = [(PROMPTS[0],), ("",), (LONG,), (LONG[: len(LONG) // 2],)]
    assert len(ours.tok_encode(LONG)) > 2 * POSITIONS
    got, expected = (m.loglikelihood_rolling(instances("loglikelihood_rolling", texts)) for m in pair)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert got[1] == 0


def test_generate_until(pair):
    free = {"max_gen_toks": 50, "do_sample": False}  # in two rounds
    requests = [(p, dict(free)) for p in [*PROMPTS, LONG]]
    got, expected = (m.generate_until(instances("generate_until", requests)) for m in pair)
    assert got == expected
    assert len(set(got)) > 1
    # Some texts end by themselves, others at the limit.
    shorter = pair[0].generate_until(
        instances("generate_until", [(p, {"max_gen_toks": 30}) for p, _ in requests[:6]])
    )
    assert {a == b for a, b in zip(shorter, got, strict=False)} == {True, False}
    stop = max(got, key=len)[8:10]
    requests = [(p, {"until": [stop], "max_gen_toks": n}) for p in PROMPTS for n in (5, 50)]
    got, expected = (m.generate_until(instances("generate_until", requests)) for m in pair)
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


def test_a_whole_task_without_a_network(pair):
    got, expected = map(results, pair)
    assert list(got) == list(expected) == ["local_choice", "local_text"]
    for task in got:
        assert got[task].keys() == expected[task].keys() != set()
        np.testing.assert_allclose(list(got[task].values()), list(expected[task].values()), rtol=1e-3)


def test_a_run_and_its_export_are_the_same_model(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACR_JAX_CACHE", str(tmp_path / "cache"))
    write_random_gpt2(tmp_path / "lm", num_blocks=6, width=32, heads=2)
    (tmp_path / "tasks.py").write_text(TASKS)
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


def test_what_it_cannot_do_is_one_line(pair):
    ours, _ = pair
    for options, message in (
        ({"do_sample": True, "temperature": 1.0}, "asks for samples"),
        ({"max_gen_toks": POSITIONS}, f"{POSITIONS} new tokens and a prompt do not fit {POSITIONS} positions"),
    ):
        with pytest.raises(UserError, match=message):
            ours.generate_until(instances("generate_until", [(PROMPTS[0], options)]))
    with pytest.raises(UserError, match="a continuation of 0 tokens"):
        ours.loglikelihood(instances("loglikelihood", [(PROMPTS[0], "")]))
    for size in ("auto", 0):
        with pytest.raises(UserError, match="batch_size must be a number"):
            opened("nowhere", batch_size=size)
