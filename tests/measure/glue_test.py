"""SST-2 and MRPC: every place and format, what is damaged, and when no network is asked."""

import json
import sys
import types
from importlib.machinery import ModuleSpec

import pytest

from tracr_jax.errors import UserError
from tracr_jax.measure.language import glue
from tracr_jax.measure.language.glue import MRPC, SST2, NotRun, examples

SST2_TSV = 'sentence\tlabel\na "gripping film\t1\nno fun , at all \t0\n'
MRPC_TSV = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe left .\tHe went {away} .\n0\t1\t2\tA\tB\n"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A test that would reach for the hub fails."""
    monkeypatch.delenv(glue.DATA_VARIABLE, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(glue.urllib.request, "urlopen", lambda *a, **k: pytest.fail("asked the network"))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def fake_datasets(monkeypatch, load):
    module = types.ModuleType("datasets")
    module.__spec__ = ModuleSpec("datasets", None)
    module.load_dataset = load
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_glue_files(tmp_path):
    write(tmp_path / "SST-2" / "dev.tsv", "\ufeff" + SST2_TSV)
    write(tmp_path / "MRPC" / "dev.tsv", MRPC_TSV.replace("\n", "\r\n"))
    first, second = examples(SST2, folder=tmp_path)
    assert (first.label, second.label) == (1, 0)
    assert first.prompt.endswith('\n\nReview: a "gripping film\nAnswer:')
    assert second.prompt.endswith("Review: no fun , at all\nAnswer:")
    assert first.prompt.count("Review: ") == 3
    yes, no = examples(MRPC, folder=tmp_path)
    assert (yes.label, no.label) == (1, 0)
    assert yes.prompt.endswith("\n\nSentence 1: He left .\nSentence 2: He went {away} .\nAnswer:")


@pytest.mark.parametrize("name", ["sst2.jsonl", "sst2/validation.jsonl", "SST-2/validation.jsonl"])
def test_json_lines_by_option_and_by_environment(tmp_path, name, monkeypatch):
    lines = [{"idx": 0, "sentence": "good\u2028fun", "label": 1}, {"sentence": "bad", "label": 0}]
    write(tmp_path / name, "\n".join(json.dumps(x, ensure_ascii=False) for x in lines) + "\n")
    by_option = examples(SST2, folder=tmp_path)
    assert [e.label for e in by_option] == [1, 0]
    assert "Review: good\u2028fun\n" in by_option[0].prompt
    monkeypatch.setenv(glue.DATA_VARIABLE, str(tmp_path))
    assert examples(SST2) == by_option


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no example"),
        ("sentence\tlabel\nfine\t2\n", "example 1: the label is '2', not 0 or 1"),
        ("text\tlabel\nfine\t1\n", "example 1: no column sentence, only text, label"),
        ("sentence\tlabel\nfine\t1\ncut\n", "example 2: no column label, only sentence"),
    ],
)
def test_damaged_files_are_a_reason(tmp_path, text, reason):
    write(tmp_path / "SST-2" / "dev.tsv", text)
    with pytest.raises(NotRun, match=reason):
        examples(SST2, folder=tmp_path)


def test_damaged_json_and_bytes_are_a_reason(tmp_path):
    for text, reason in [("{}\n{", "line 2: not JSON"), ("[1]", "line 1: not a JSON object")]:
        write(tmp_path / "mrpc.jsonl", text)
        with pytest.raises(NotRun, match=reason):
            examples(MRPC, folder=tmp_path)
    (tmp_path / "mrpc.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(NotRun, match="cannot be read"):
        examples(MRPC, folder=tmp_path)


def test_a_folder_that_is_not_there_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        examples(SST2, folder=tmp_path / "none")


def test_without_the_package_the_hub_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(glue.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotRun, match=r"no data on disk \(--data-dir\), and the package datasets is not installed"):
        examples(SST2)
    with pytest.raises(NotRun, match=r"no SST-2/dev.tsv or sst2.jsonl in .*, and the package datasets"):
        examples(SST2, folder=tmp_path)


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_the_hub_is_not_asked(monkeypatch, name):
    fake_datasets(monkeypatch, lambda *a, **k: pytest.fail("asked the hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv(name, "true")
    with pytest.raises(NotRun, match=f"{name} is set"):
        examples(SST2)


def test_a_hub_that_does_not_answer_is_left_alone(monkeypatch):
    fake_datasets(monkeypatch, lambda *a, **k: pytest.fail("asked the hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def refuse(request, *, timeout):
        assert timeout <= 10
        raise OSError("name resolution")

    monkeypatch.setattr(glue.urllib.request, "urlopen", refuse)
    with pytest.raises(NotRun, match="the hub does not answer"):
        examples(SST2)


def test_the_hubs_copy(monkeypatch):
    asked = []

    def load(*args, **kwargs):
        asked.append((args, kwargs))
        return [{"sentence1": "A", "sentence2": "B", "label": 1, "idx": 0}]

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(glue, "_hub_answers", lambda: True)
    fake_datasets(monkeypatch, load)
    (example,) = examples(MRPC)
    assert example.label == 1
    assert asked == [(("nyu-mll/glue", "mrpc"), {"split": "validation"})]

    def broken(*args, **kwargs):
        raise RuntimeError("server\nerror")

    fake_datasets(monkeypatch, broken)
    with pytest.raises(NotRun, match=r"the hub's copy was not read \(RuntimeError: server error\)"):
        examples(MRPC)
