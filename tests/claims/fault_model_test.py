"""Damaged or foreign models: 200 generated cases each of weights, GGUF, config.json and the tokenizer's files."""

import json
import shutil

import numpy as np
import pytest

from tests.helpers import fault_parts as F
from tests.helpers import lm_models as M
from tests.helpers.random_models import word_tokenizer
from tests.lm.gguf_test import write_gguf
from tracr_jax.lm.convert import from_tensors, save_hf_folder
from tracr_jax.lm.gguf import read_gguf
from tracr_jax.lm.load import read_model
from tracr_jax.lm.tensors import open_safetensors
from tracr_jax.lm.tokenizer import Tokenizer


def read_all(tensors):
    for name in tensors.shapes:
        tensors.get(name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Family -> a whole folder, which tests copy."""
    made = {}
    for family in ("gpt2", "llama"):
        made[family] = tmp_path_factory.mktemp("lm") / family
        model, params = M.make(family)
        save_hf_folder(made[family], model, params)
    return made


def cut(path):
    """(header as JSON, the data behind it) of a safetensors file."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def joined(header, data, *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def lies(header, data, number):
    """A safetensors file whose header does not tell the truth."""
    rng = np.random.default_rng((29, number))
    name = sorted(header)[int(rng.integers(len(header)))]
    other = sorted(header)[int(rng.integers(len(header)))]
    entry = dict(header[name])
    match number % 10:
        case 0:
            entry["dtype"] = ["I64", "BOOL", "F8_E4M3", "F64", "F16", "BF16", "U8"][number // 10 % 7]
        case 1:
            entry["shape"] = [*entry.get("shape", [1])[::-1], 1]
        case 2:
            entry["shape"] = [2**40, 2**40]
        case 3:
            begin, end = entry.get("data_offsets", (0, 4))
            entry["data_offsets"] = [begin + int(rng.integers(-99, 99)), end + int(rng.integers(-99, 99))]
        case 4:
            return joined({**header, "extra.weight": entry}, data)
        case 5:
            return joined({k: v for k, v in header.items() if k != name}, data)
        case 6:
            return joined(header, data, length=int(rng.integers(0, 2 ** (8 + number % 55))))
        case 7:
            return joined({**header, name: header[other], other: header[name]}, data)
        case 8:
            return joined(b"[" * 200_000 if number % 20 == 8 else b"9" * 6000, data)
        case 9:
            return joined(F.odd_json(header, number), data)
    return joined({**header, name: entry}, data)


def test_safetensors_as_bytes_and_with_headers_that_lie(folders, tmp_path):
    path = tmp_path / "model.safetensors"
    whole = (folders["gpt2"] / path.name).read_bytes()
    header, data = cut(folders["gpt2"] / path.name)
    head = len(whole) - len(data)
    cases = [(f"bytes {i}", F.damaged(whole, i, head=head)) for i in range(F.CASES // 2)]
    cases += [(f"lie {i}", lies(header, data, i)) for i in range(F.CASES)]
    model = read_model(folders["gpt2"])

    def read(content):
        path.write_bytes(content)
        read_all(open_safetensors(tmp_path))
        from_tensors(model, open_safetensors(tmp_path))

    F.survives("safetensors", read, cases, says=str(tmp_path))


def test_a_header_as_long_as_the_disk_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as f:
        f.write((1 << 38).to_bytes(8, "little"))
        f.truncate(1 << 39)  # sparse: it takes no room
    cases = [("", tmp_path)]
    F.survives("safetensors, 256 GiB of header", open_safetensors, cases, says=str(path), count=1, refused=1)


def test_the_list_of_shards(folders, tmp_path):
    shutil.copy(folders["gpt2"] / "model.safetensors", tmp_path / "a.safetensors")
    header, _ = cut(tmp_path / "a.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": {k: "a.safetensors" for k in header if k[0] != "_"}}
    path = tmp_path / "model.safetensors.index.json"

    def read(content):
        path.write_bytes(content)
        read_all(open_safetensors(tmp_path))

    cases = [(str(i), F.odd_texts(index, i)) for i in range(F.CASES)]
    F.survives("model.safetensors.index.json", read, cases, says=str(tmp_path))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_config_json(family, folders, tmp_path):
    folder = shutil.copytree(folders[family], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())

    def read(content):
        (folder / "config.json").write_bytes(content)
        from_tensors(read_model(folder), open_safetensors(folder))

    cases = [(str(i), F.odd_texts(config, i)) for i in range(F.CASES)]
    F.survives(f"config.json of a {family}", read, cases, says=str(folder))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"])
def test_tokenizer_files(name, tmp_path):
    word_tokenizer([" yes", " no"]).save(tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(spec["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, spec["model"]["merges"])))
    if name in ("vocab.json", "merges.txt"):
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    path = tmp_path / name
    whole = path.read_bytes()
    if name == "merges.txt":
        cases = [(str(i), F.damaged(whole, i)) for i in range(F.CASES)]
    else:
        cases = [(str(i), F.odd_texts(json.loads(whole), i)) for i in range(F.CASES)]

    def read(content):
        path.write_bytes(content)
        tokenizer = Tokenizer.load(tmp_path).filtered(lambda left, right: left != " ")
        ids = tokenizer.encode("yes 😀 no\x00<|endoftext|>")
        tokenizer.decode(ids)
        [tokenizer.token_text(i) for i in ids]

    # A merge lost or a word renamed leaves a tokenizer, only another one.
    F.survives(name, read, cases, says=str(tmp_path), refused=F.CASES // 8)


def test_gguf(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path)
    whole = path.read_bytes()

    def read(content):
        path.write_bytes(content)
        _, tensors, tokenizer = read_gguf(path)
        read_all(tensors)
        tokenizer.encode("ab")

    cases = [(str(i), F.damaged(whole, i, head=5000 if i % 3 else 300)) for i in range(F.CASES)]
    F.survives("GGUF", read, cases, says=str(path))
