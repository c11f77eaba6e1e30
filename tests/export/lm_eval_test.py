"""Our models in the lm-evaluation-harness, beside its own Hugging Face adapter on the same small random models."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from tests.helpers.programs_parts import SMALL, write_tasks
from tracr_jax.errors import UserError
from tracr_jax.export import export_run
from tracr_jax.injection import inject
from tracr_jax.lm.convert import save_hf_folder
from tracr_jax.lm.gpt2 import GPT2Config
from tracr_jax.lm.llama import LlamaConfig
from tracr_jax.lm.load import TASK_WORDS, random_lm, write_random_gpt2
from tracr_jax.lm.tokenizer import END_OF_TEXT as BOS
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


def theirs(folder, *, batch_size=4, **options):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=batch_size, **options)


def instances(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request, tmp_path_factory):
    """Of a model that tells tokens clearly apart and often ends a text."""
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
    return folder


@pytest.fixture(scope="module")
def pair(folder):
    """(our adapter, theirs)."""
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


def candidates(name, default):
    """Values to try for an option of `generate`: near its default and far from it, of every plain kind."""
    known = {
        "bad_words_ids": [[[5]]], "sequence_bias": [[[[5], 9.0]]], "suppress_tokens": [[5, 6]],
        "begin_suppress_tokens": [[5, 6]], "force_words_ids": [[[5]]], "stop_strings": [" x"],
        "exponential_decay_length_penalty": [(1, 2.0)], "cache_implementation": ["static"],
    }  # fmt: skip
    return known.get(name, [*([] if default is None else [default]), False, 0, 1, 1.0, 3, 5.5])


def test_every_option_of_generate_is_honoured_or_refused_by_name(folder, pair):
    """Walk over all that generate takes: the text is HFLM's, or a line names the option."""
    from transformers import GenerationConfig

    ours, reference = pair
    ask = (PROMPTS[0], PROMPTS[3])
    honoured, refused = set(), set()
    fields = {n: v for n, v in vars(GenerationConfig()).items() if not n.startswith("_")}
    fields |= dict.fromkeys(["max_tokens", "max_completion_tokens", "stop", "seed", "beams", "logit_bias"])
    for name, default in fields.items():
        for value in candidates(name, default):
            rows = [(p, {"max_gen_toks": 8, name: value}) for p in ask]
            if name in ("max_new_tokens", "max_tokens", "max_completion_tokens"):
                if not isinstance(value, int) or value < 1:
                    continue
                rows = [(p, {name: value}) for p in ask]
            message = None
            try:
                got = ours.generate_until(instances("generate_until", rows))
            except UserError as e:
                message = str(e)
            if message:
                assert f"{name}=" in message, (name, value)
                refused.add(name)
            else:
                honoured.add(name)
                if isinstance(value, float) and name.startswith(("min_", "num_", "no_", "top_k")):
                    continue  # generate wants whole numbers
                assert got == reference.generate_until(instances("generate_until", rows)), (name, value)
    assert honoured >= {"max_new_tokens", "max_tokens", "num_beams", "repetition_penalty", "top_p", "min_length"}
    assert refused >= {"num_beams", "repetition_penalty", "max_length", "stop_strings", "penalty_alpha", "seed"}
    assert not {"max_length", "seed", "beams", "logit_bias", "stop", "bad_words_ids", "eos_token_id"} & honoured


@pytest.mark.parametrize(
    "options",
    [
        {"until": None}, {"until": []}, {"until": " x"}, {"until": [" x", " 3", " x"]},
        {"temperature": 0}, {"temperature": 0.0, "do_sample": False}, {"temperature": 0.7, "do_sample": False},
        {"do_sample": None}, {"top_k": 3, "do_sample": False}, {"num_beams": 1, "num_return_sequences": 1},
        {"max_new_tokens": 5}, {"max_gen_toks": 6, "max_tokens": 3}, {"max_gen_toks": None},
    ],
    ids=str,
)  # fmt: skip
def test_honoured_generation_options_give_the_same_texts(pair, options):
    limit = {} if set(options) & {"max_new_tokens", "max_gen_toks"} else {"max_gen_toks": 20}
    if options == {"max_gen_toks": None}:
        limit = {"max_tokens": 7}
    got = pair[0].generate_until(instances("generate_until", [(p, options | limit) for p in PROMPTS]))
    # HFLM fails on a None that it could take for "not set".
    set_ones = {n: v for n, v in (options | limit).items() if v is not None}
    assert got == pair[1].generate_until(instances("generate_until", [(p, set_ones) for p in PROMPTS]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.7}, "asks for samples"),
        ({"do_sample": True, "top_k": 1}, "asks for samples"),
        ({"num_beams": 3}, r"ask for num_beams=3; .* greedily"),
        ({"repetition_penalty": 1.1, "num_beams": 2}, r"repetition_penalty=1\.1, num_beams=2"),
        ({"max_length": 20}, r"max_length is max_gen_toks here"),
        ({"stop": ["x"]}, r"stop is until here"),
        ({"until": [""]}, "until must be a text or a list of texts, none empty"),
        ({"until": 3}, "until must be a text"),
    ],
    ids=str,
)
def test_a_generation_option_that_is_not_implemented_is_refused_by_name(pair, options, message):
    with pytest.raises(UserError, match=message) as e:
        pair[0].generate_until(instances("generate_until", [(PROMPTS[0], options)]))
    assert "\n" not in str(e.value)


def copied(folder, to, *, config, post_processor=None):
    """The model's folder with other settings of the tokenizer."""
    shutil.copytree(folder, to)
    for name, change in (
        ("tokenizer_config.json", config),
        ("tokenizer.json", {"post_processor": post_processor}),
    ):
        path = to / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return to


def template(folder):
    """A post-processor as in Llama 3's tokenizer.json: the BOS in front, whatever the settings say."""
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    front = [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing", "single": front, "pair": [*front, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {BOS: {"id": BOS, "ids": [words[BOS]], "tokens": [BOS]}},
    }  # fmt: skip


@pytest.mark.parametrize("settings", ["plain", "settings say yes", "post-processor", "settings say no"])
def test_a_bos_stands_where_hflm_puts_it(folder, tmp_path, settings):
    config = {"settings say yes": {"add_bos_token": True}, "settings say no": {"add_bos_token": False}}
    processor = template(folder) if settings in ("post-processor", "settings say no") else None
    config = config.get(settings, {}) | {"bos_token": BOS}
    changed = copied(folder, tmp_path / "lm", config=config, post_processor=processor)
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
def test_scores_and_texts_are_hflms_with_a_bos_and_without(folder, tmp_path, option):
    changed = copied(folder, tmp_path / "lm", config={"bos_token": BOS})
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


def test_a_bos_that_cannot_be_given_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="add_bos_token: the tokenizer has no bos_token"):
        opened(copied(folder, tmp_path / "none", config={"bos_token": None}), add_bos_token=True)
    behind = template(folder)
    behind["single"].append(behind["single"][0])
    closed = copied(folder, tmp_path / "eos", config={"bos_token": BOS}, post_processor=behind)
    with pytest.raises(UserError, match="after each text"):
        opened(closed)
    assert opened(closed, add_bos_token=False).tok_encode(" x") == opened(folder).tok_encode(" x")


def test_the_folders_own_generation_settings(folder, pair, tmp_path):
    """A penalty in generation_config.json is refused, an end of text in it ends a text, as for HFLM."""
    plain = pair[0].generate_until(instances("generate_until", [(p, {"max_gen_toks": 20}) for p in PROMPTS]))
    first = pair[0].generate_until(instances("generate_until", [(p, {"max_gen_toks": 1}) for p in PROMPTS]))
    inside = next(ids[0] for text in first if text and len(ids := pair[0].tok_encode(text)) == 1)
    changed = copied(folder, tmp_path / "lm", config={})
    path = changed / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [pair[0].eot_token_id, inside], "do_sample": True, "top_p": 0.9}))
    rows = instances("generate_until", [(p, {"max_gen_toks": 20}) for p in PROMPTS])
    # A text may end with a token that is not special, which HFLM shows.
    got, wanted = (m.generate_until(rows) for m in (opened(changed), theirs(changed, batch_size=1)))
    assert got == wanted != plain
    path.write_text(json.dumps({"repetition_penalty": 1.1}))
    with pytest.raises(UserError, match=r"generation_config.json .* ask for repetition_penalty=1\.1"):
        opened(changed).generate_until(rows)
    # Without the file, they are what config.json says of generation.
    path.unlink(missing_ok=True)
    config = json.loads((changed / "config.json").read_text())
    ends = {"eos_token_id": [pair[0].eot_token_id, inside]}
    (changed / "config.json").write_text(json.dumps(config | ends))
    assert opened(changed).generate_until(rows) == theirs(changed, batch_size=1).generate_until(rows) == wanted
    (changed / "config.json").write_text(json.dumps(config | {"repetition_penalty": 1.1}))
    with pytest.raises(UserError, match=r"config.json\) ask for repetition_penalty=1\.1"):
        opened(changed).generate_until(rows)


@pytest.mark.parametrize("blank", [" ", "\n", "   "])
def test_a_context_of_blanks_is_scored_as_one_without_context(folder, blank):
    """The harness moves them into the continuation; nothing of a text may be free."""
    model = opened(folder)
    blanks = model.loglikelihood(instances("loglikelihood", [(blank, "x"), (blank, "y x")]))
    without = model.loglikelihood(instances("loglikelihood", [("", f"{blank}x"), ("", f"{blank}y x")]))
    np.testing.assert_allclose(np.array(blanks), np.array(without), rtol=1e-6)
    assert all(value < -0.01 for value, _ in blanks)
