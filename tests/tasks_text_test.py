"""Retention text: documents, windows, the cache and its damage, the bundled files."""

import gzip

import numpy as np
import pytest
from tasks_tokenizers import gpt2_tokenizer

from tracr_jax.errors import UserError
from tracr_jax.lm.tokenizer import word_tokenizer
from tracr_jax.tasks.text import TextIds, bundled_text, documents, read_text

TEXT = "".join(f"Story {i}: a cat sat on the mat {i * 'again '}.\n<|endoftext|>\n" for i in range(30))


def test_documents():
    assert documents("a\n<|endoftext|>\nb\n\nc\n<|endoftext|>\n") == ["a", "b\n\nc"]
    assert documents("a\r\n<|endoftext|>\r\nb") == ["a", "b"]
    assert documents("one text\n") == ["one text"]
    assert documents("\n<|endoftext|>\n") == []


def test_ids_are_the_documents(tmp_path):
    tokenizer = gpt2_tokenizer()
    text = TextIds.build(TEXT, tokenizer, cache=tmp_path)
    assert tokenizer.decode(text.ids) == "".join(d + "<|endoftext|>" for d in documents(TEXT))
    assert text.ids.dtype == np.uint16


def test_rows_are_windows_of_the_text(tmp_path):
    text = TextIds.build(TEXT, gpt2_tokenizer(), cache=tmp_path)
    rows = text.rows(0, 5, count=8, length=20)
    assert rows.shape == (8, 20)
    assert rows.dtype == np.int32
    everywhere = np.lib.stride_tricks.sliding_window_view(text.ids, 20)
    assert all((everywhere == row).all(axis=1).any() for row in rows)
    assert (rows == text.rows(0, 5, count=8, length=20)).all()
    assert (rows != text.rows(1, 5, count=8, length=20)).any()


def test_document_mode_takes_beginnings_and_pads(tmp_path):
    tokenizer = gpt2_tokenizer()
    text = TextIds.build(TEXT, tokenizer, cache=tmp_path)
    parts = documents(TEXT)
    rows = text.rows(0, 2, count=4, length=14, mode="documents")
    for row, part in zip(rows, parts[8:12], strict=True):
        ids = tokenizer.encode(part)[:14]
        assert row.tolist() == ids + [tokenizer.eos_id] * (14 - len(ids))
    # After the last document comes the first.
    assert (
        text.rows(0, 30, count=1, length=14, mode="documents")
        == text.rows(0, 0, count=1, length=14, mode="documents")
    ).all()


def test_windows_do_not_overlap_and_are_spread(tmp_path):
    text = TextIds(np.arange(1, 1002, dtype=np.uint16), eos_id=1001)
    for count in (3, 7, 62, 500):
        rows = text.windows(count, length=16)
        assert len(rows) == min(count, 62)
        assert len(np.unique(rows)) == rows.size
    assert text.windows(3, length=16)[-1, -1] == 1001
    assert text.windows(3, length=16)[0, 0] == 1


def test_cache_is_used_and_belongs_to_tokenizer_and_text(tmp_path, monkeypatch):
    tokenizer = gpt2_tokenizer()
    first = TextIds.build(TEXT, tokenizer, cache=tmp_path)
    files = list(tmp_path.iterdir())
    assert len(files) == 1
    with monkeypatch.context() as m:
        m.setattr(type(tokenizer), "encode_batch", lambda *_: pytest.fail("tokenised again"))
        assert (TextIds.build(TEXT, tokenizer, cache=tmp_path).ids == first.ids).all()
    TextIds.build(TEXT + "more", tokenizer, cache=tmp_path)
    TextIds.build(TEXT, tokenizer.filtered(lambda a, b: "a" not in a), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"not an array", None])
def test_damaged_cache_is_made_again(tmp_path, damage):
    tokenizer = gpt2_tokenizer()
    good = np.array(TextIds.build(TEXT, tokenizer, cache=tmp_path).ids)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    assert (TextIds.build(TEXT, tokenizer, cache=tmp_path).ids == good).all()
    assert (np.load(path) == good).all()


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    text = TextIds.build(TEXT, word_tokenizer([" cat"]), cache=tmp_path / "file" / "below")
    assert len(text.ids) > 100


def test_default_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACR_JAX_CACHE", str(tmp_path))
    TextIds.build("a b c", word_tokenizer([" b"]))
    assert len(list((tmp_path / "text").iterdir())) == 1


def test_too_little_text(tmp_path):
    with pytest.raises(UserError, match="no document"):
        TextIds.build("\n", gpt2_tokenizer(), cache=tmp_path)
    with pytest.raises(UserError, match="4 tokens, fewer than one row of 64"):
        TextIds.build("a b c", gpt2_tokenizer(), cache=tmp_path).rows(0, 0, count=1, length=64)


def test_files(tmp_path):
    (tmp_path / "a.txt").write_text("plain", encoding="utf-8")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"packed"))
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "bad.gz").write_bytes(b"no gzip")
    assert read_text(str(tmp_path / "a.txt")) == "plain"
    assert read_text(str(tmp_path / "a.txt.gz")) == "packed"
    with pytest.raises(UserError, match="no such file"):
        read_text(str(tmp_path / "none.txt"))
    for name in ("bad.txt", "bad.gz"):
        with pytest.raises(UserError, match="not UTF-8 text"):
            read_text(str(tmp_path / name))


def test_bundled_text_is_small_and_held_out():
    train, valid = (documents(bundled_text(split)) for split in ("train", "valid"))
    assert (len(train), len(valid)) == (1914, 341)
    assert not set(train) & set(valid)
    assert read_text("bundled", split="valid") == bundled_text("valid")
