"""Generation options of the harness: our adapter honours each as its Hugging Face adapter does, or refuses it."""

import json

import pytest

from tests.helpers.lm_eval_parts import POSITIONS, PROMPTS, copied, instances, opened, theirs
from tracr_jax.errors import UserError

pytestmark = [
    pytest.mark.parity,
    # Of the harness and what it imports; none is about us.
    pytest.mark.filterwarnings("ignore:::lm_eval|evaluate|datasets|torch|transformers|sacrebleu|rouge_score"),
]


def test_what_it_cannot_do_is_one_line(lm_pair):
    ours, _ = lm_pair
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


def test_every_option_of_generate_is_honoured_or_refused_by_name(lm_folder, lm_pair):
    """Walk over all that generate takes: the text is HFLM's, or a line names the option."""
    from transformers import GenerationConfig

    ours, reference = lm_pair
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
def test_honoured_generation_options_give_the_same_texts(lm_pair, options):
    limit = {} if set(options) & {"max_new_tokens", "max_gen_toks"} else {"max_gen_toks": 20}
    if options == {"max_gen_toks": None}:
        limit = {"max_tokens": 7}
    got = lm_pair[0].generate_until(instances("generate_until", [(p, options | limit) for p in PROMPTS]))
    # HFLM fails on a None that it could take for "not set".
    set_ones = {n: v for n, v in (options | limit).items() if v is not None}
    assert got == lm_pair[1].generate_until(instances("generate_until", [(p, set_ones) for p in PROMPTS]))


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
def test_a_generation_option_that_is_not_implemented_is_refused_by_name(lm_pair, options, message):
    with pytest.raises(UserError, match=message) as e:
        lm_pair[0].generate_until(instances("generate_until", [(PROMPTS[0], options)]))
    assert "\n" not in str(e.value)


def test_the_folders_own_generation_settings(lm_folder, lm_pair, tmp_path):
    """A penalty in generation_config.json is refused, an end of text in it ends a text, as for HFLM."""
    plain = lm_pair[0].generate_until(instances("generate_until", [(p, {"max_gen_toks": 20}) for p in PROMPTS]))
    first = lm_pair[0].generate_until(instances("generate_until", [(p, {"max_gen_toks": 1}) for p in PROMPTS]))
    inside = next(ids[0] for text in first if text and len(ids := lm_pair[0].tok_encode(text)) == 1)
    changed = copied(lm_folder, tmp_path / "lm", config={})
    path = changed / "generation_config.json"
    path.write_text(
        json.dumps({"eos_token_id": [lm_pair[0].eot_token_id, inside], "do_sample": True, "top_p": 0.9})
    )
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
    ends = {"eos_token_id": [lm_pair[0].eot_token_id, inside]}
    (changed / "config.json").write_text(json.dumps(config | ends))
    assert opened(changed).generate_until(rows) == theirs(changed, batch_size=1).generate_until(rows) == wanted
    (changed / "config.json").write_text(json.dumps(config | {"repetition_penalty": 1.1}))
    with pytest.raises(UserError, match=r"config.json\) ask for repetition_penalty=1\.1"):
        opened(changed).generate_until(rows)
