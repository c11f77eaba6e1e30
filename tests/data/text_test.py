"""Retention text: documents, windows, the cache and its damage, the bundled files."""

import gzip
import io
import random

import numpy as np
import pytest

from tests.helpers.random_models import word_tokenizer
from tests.helpers.tasks_tokenizers import gpt2_tokenizer
from tracr_jax.data import text as text_module
from tracr_jax.data.source import open_text, pieces
from tracr_jax.data.text import TextIds
from tracr_jax.errors import UserError
from tracr_jax.lm.tokenizer import Tokenizer

TEXT = "".join(f"Story {i}: a cat sat on the mat {i * 'again '}.\n<|endoftext|>\n" for i in range(30))


def documents(text):
    """The documents of a text, joined from their pieces."""
    out = [""]
    for piece, ends in pieces(io.StringIO(text, newline="")):
        out[-1] += piece
        if ends:
            out.append("")
    return out[:-1]


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


def test_the_end_is_held_out(tmp_path):
    text = TextIds.build(TEXT, gpt2_tokenizer(), cache=tmp_path)
    total = len(text.ids)
    train, held = text.hold_out(10**6, row=20)
    assert len(held.ids) == max(20, total // 10)
    assert np.concatenate([train.ids, held.ids]).tolist() == text.ids.tolist()
    assert len(text.hold_out(30, row=20)[1].ids) == 30
    # The document that the cut goes through still counts.
    assert train.rows(0, 0, count=len(train._ends), length=4, mode="documents").shape == (len(train._ends), 4)
    one = TextIds(np.arange(1, 50), eos_id=0).hold_out(10, row=20)[0]
    assert one.rows(0, 3, count=1, length=4, mode="documents").tolist() == [[1, 2, 3, 4]]
    with pytest.raises(UserError, match=f"{total} tokens, of which {total} are held out"):
        text.hold_out(10, row=total)


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
    splits = Tokenizer.from_json(tokenizer.to_json(), tokenizer.config | {"split_special_tokens": True})
    whole, split = (TextIds.build("it says <|endoftext|> here\n", t, cache=tmp_path) for t in (tokenizer, splits))
    assert len(split.ids) > len(whole.ids)


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
    for name in ("a.txt", "a.txt.gz"):
        with open_text(str(tmp_path / name)) as f:
            assert f.read() == (b"plain" if name == "a.txt" else b"packed")
    tokenizer = word_tokenizer([" b"])
    with pytest.raises(UserError, match="no such file"):
        TextIds.open(str(tmp_path / "none.txt"), tokenizer, cache=tmp_path / "cache")
    for name in ("bad.txt", "bad.gz"):
        with pytest.raises(UserError, match="not UTF-8 text"):
            TextIds.open(str(tmp_path / name), tokenizer, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))  # nothing half-written


def bundled_text(split):
    with open_text("bundled", split=split) as f:
        return f.read().decode()


def test_bundled_text_is_small_and_held_out():
    train, valid = (documents(bundled_text(split)) for split in ("train", "valid"))
    assert (len(train), len(valid)) == (1914, 341)
    assert not set(train) & set(valid)


def wild_text(seed):
    """Documents of every length, with what could be confused with their ends."""
    rng = random.Random(seed)
    bits = ["word", " two words", "\n", "\n\n", "\r\n", "\r", " ", "  ", "é漢", "<|endoftext|", "x" * 50]
    lines = ["\n<|endoftext|>\n", "\n<|endoftext|>\r\n", "<|endoftext|>\n"]
    return "".join(rng.choice(bits if rng.random() < 0.9 else lines) for _ in range(rng.randrange(120)))


def split_by_lines(text):
    """The same rule, said in another way."""
    out, lines = [], []
    for line in [*text.replace("\r\n", "\n").split("\n"), "<|endoftext|>"]:
        if line == "<|endoftext|>":
            out.append("\n".join(lines).strip("\n"))
            lines = []
        else:
            lines.append(line)
    return [d for d in out if d]


@pytest.mark.parametrize("size", [9, 40])
def test_pieces_join_to_the_documents(size):
    for seed in range(300):
        text = wild_text(seed)
        joined = [""]
        for piece, ends in pieces(io.StringIO(text, newline=""), size=size):
            assert len(piece) <= 3 * size
            joined[-1] += piece
            joined += [""] * ends
        assert joined.pop() == ""
        assert [d.rstrip("\n") for d in joined] == split_by_lines(text)


def test_ids_do_not_depend_on_the_pieces(tmp_path, monkeypatch):
    """A file of many pieces, most documents longer than one, has the ids of the text in one piece."""
    tokenizer = gpt2_tokenizer()
    rng = random.Random(1)
    words = ["it's", "a", "walk", "1234", "naïve", "(x)", "\n\n", "  two"]
    lines = [" ".join(rng.choices(words, k=rng.randrange(1, 30))) for _ in range(400)]
    text = "\n".join(line if rng.random() < 0.95 else "<|endoftext|>" for line in lines)
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    expected = [i for d in documents(text) for i in (*tokenizer.encode(d), tokenizer.eos_id)]
    monkeypatch.setattr(text_module, "PIECE", 200)
    monkeypatch.setattr(text_module, "pieces", lambda f: pieces(f, size=100))
    monkeypatch.setattr(text_module, "_SCAN", 37)
    ids = TextIds.open(str(path), tokenizer, cache=tmp_path / "cache")
    assert isinstance(ids.ids, np.memmap)
    assert ids.ids.tolist() == expected
    ends = np.flatnonzero(np.array(expected) == tokenizer.eos_id)
    rows = ids.rows(0, 0, count=len(ends), length=1, mode="documents")
    assert rows[1:, 0].tolist() == [expected[e + 1] for e in ends[:-1]]


def test_a_part_is_those_rows_of_the_whole(tmp_path):
    text = TextIds.build(TEXT, gpt2_tokenizer(), cache=tmp_path)
    for mode in ("windows", "documents"):
        whole = text.rows(3, 4, count=8, length=12, mode=mode)
        assert (text.part([1, 6]).rows(3, 4, count=8, length=12, mode=mode) == whole[[1, 6]]).all()


def test_a_large_text_needs_its_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "_IN_MEMORY", 100)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        TextIds.build(TEXT, word_tokenizer([" cat"]), cache=tmp_path / "file" / "below")
