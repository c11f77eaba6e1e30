"""What others load from an exported folder: transformers with no code of ours, and TransformerLens."""

import functools
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import tracr_jax
from tests.helpers import export_parts as E
from tests.helpers.tasks_tokenizers import gpt2_tokenizer
from tracr_jax.export.tokenizer import as_trained, write_tokenizer
from tracr_jax.lm.load import load_lm
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.measure.answers import greedy_answers
from tracr_jax.tasks.registry import get_task

pytestmark = pytest.mark.parity

HERE = Path(__file__).parents[1]
MAX_LENGTH = 256


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return E.exporter(tmp_path_factory)


@functools.cache
def tokenizer_of(name):
    if name == "tiny":
        return Tokenizer.load(HERE.parent / "tracr_jax" / "lm" / "tiny")
    if name == "digits":
        return E.word_digits_tokenizer()
    return gpt2_tokenizer()


def thousand_texts(task):
    packed = (HERE.parent / "tracr_jax" / "data" / "corpus" / "valid.txt.gz").read_bytes()
    lines = [line for line in gzip.decompress(packed).decode().splitlines() if len(line) > 20]
    items = [task.train_item(i, seed=0) for i in range(500)]
    return (
        [f"{i.prompt} {i.label}" for i in items] + lines[:: len(lines) // 498][:498] + ["", " # ## (#) 12 é🙂\n"]
    )


@pytest.mark.parametrize(
    ("name", "task"), [("gpt2", "dyck"), ("gpt2", "int_sum"), ("tiny", "count"), ("digits", "int_sum")]
)
def test_ids_of_a_thousand_texts(name, task, tmp_path):
    import transformers

    task = get_task(task)
    ours = tokenizer_of(name).filtered(task.keep_merge)
    texts = thousand_texts(task)
    assert len(texts) == 1000
    want = ours.encode_batch(texts)
    written = as_trained(ours, max_length=MAX_LENGTH)
    written.save(tmp_path)
    write_tokenizer(tmp_path, written)
    kind = {"model_type": "llama" if name == "digits" else "gpt2"}
    (tmp_path / "config.json").write_text(json.dumps(kind))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(texts).input_ids == want  # as users call it, with special tokens on
    assert set(theirs(texts[0])) == {"input_ids", "attention_mask"}
    assert theirs.eos_token_id == ours.eos_id
    assert theirs.model_max_length == MAX_LENGTH
    assert theirs.batch_decode(want[:3]) == texts[:3]
    assert transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)(texts).input_ids == want
    if name != "digits":
        assert transformers.GPT2Tokenizer.from_pretrained(tmp_path)(texts).input_ids == want
        # What a tool that knows vocabulary and merges only makes of them.
        (tmp_path / "alone").mkdir()
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(tmp_path / file, tmp_path / "alone")
        assert transformers.GPT2Tokenizer.from_pretrained(tmp_path / "alone")(texts).input_ids == want


@E.families
def test_transformers_computes_the_same_answers(family, exported):
    import torch
    import transformers

    run, folder = E.run_of(family), exported(family)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.generation_config.eos_token_id == run.program.tokenizer.eos_id
    items = [run.program.task.train_item(i, seed=1) for i in range(6)]
    answers = greedy_answers(run, run.params, items)
    assert len({tuple(a) for a in answers}) > 1  # constant answers would prove nothing
    lm = load_lm(str(folder))
    for item, answer in zip(items, answers, strict=True):
        ids = lm.tokenizer.encode(item.prompt)
        with torch.no_grad():
            out = theirs(torch.tensor([ids])).logits[0].numpy()
            said = theirs.generate(torch.tensor([ids]), max_new_tokens=len(answer))[0, len(ids) :]
        ours = jax.jit(lm.model.apply)(lm.params, np.asarray([ids])).logits[0]
        assert np.ptp(out) > 1.0
        np.testing.assert_allclose(out, ours, atol=1e-4)
        assert said.tolist() == answer


@E.families
def test_the_cards_code_runs_with_nothing_of_ours(family, exported, tmp_path):
    """In a process of its own, in which our package cannot be imported."""
    run, folder = E.run_of(family), exported(family)
    blocks = E.code_blocks((folder / "README.md").read_text())
    guard = "import sys\nsys.modules['tracr_jax'] = sys.modules['jax'] = None\n"
    tail = "print('@' + json.dumps({k: v if isinstance(v, list) else v.tolist() for k, v in decoded.items()}))"
    script = tmp_path / "card.py"
    script.write_text(guard + "\n".join([*blocks, tail]))
    done = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "should be" in blocks[0]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("@"))
    _same_variables(run, json.loads(line[1:]))


def _same_variables(run, decoded):
    ours = tracr_jax.decode(run, run.program.task.eval_sets()["test"].item(0).prompt)
    assert set(decoded) == {v.name for v in ours.variables}
    for i, v in enumerate(ours.variables):
        if v.values:
            assert decoded[v.name] == [v.values[k] for k in ours.values[-1, i]]
        else:
            np.testing.assert_allclose(decoded[v.name], ours.numbers[-1, i], atol=1e-4)


@E.families
@pytest.mark.filterwarnings("default")  # TransformerLens's own imports warn
def test_transformer_lens_reads_the_same_variables(family, exported):
    import torch
    import transformer_lens as lens
    from safetensors.numpy import load_file

    run, folder = E.run_of(family), exported(family)
    adapter, program = load_file(folder / "adapter.safetensors"), json.loads((folder / "program.json").read_text())
    model = lens.TransformerBridge.boot_transformers(str(folder))
    prompt = program["bridge"]["examples"][0]["prompt"]
    ids = torch.tensor([run.program.tokenizer.encode(prompt)])
    assert model.to_tokens(prompt, prepend_bos=False).tolist() == ids.tolist()
    with torch.no_grad():
        logits, cache = model.run_with_cache(ids)
    ours = tracr_jax.hidden_states(run, prompt)
    np.testing.assert_allclose(logits[0].numpy(), ours["logits"], atol=1e-3)
    for layer in range(program["layers"] + 1):
        state = cache[f"blocks.{layer}.hook_resid_pre"][0].numpy()
        np.testing.assert_allclose(state, ours[f"hidden_{layer}"], atol=1e-4)
    reading = state @ adapter["weight"].T + adapter["bias"]
    decoded = {}
    for v in program["variables"]:
        coordinates = reading[:, v["directions"]]
        decoded[v["name"]] = [v["values"][k] for k in coordinates.argmax(-1)] if v["values"] else coordinates[:, 0]
    _same_variables(run, decoded)
