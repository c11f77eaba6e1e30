"""Retention text from the hub: the package's own streams, from files on disk; broken off, in shares, refused."""

import functools
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import datasets
import pytest

from tracr_jax.data import hub
from tracr_jax.data.hub import hub_text
from tracr_jax.data.source import SEPARATOR
from tracr_jax.errors import UserError

DOCUMENTS = [f"Document {i} says: {'word ' * (i % 7)}end.\nSecond line {i}." for i in range(400)]


@pytest.fixture
def load(tmp_path):
    """Opens four local files in place of a hub dataset, as a stream."""
    files = []
    for k in range(4):
        files.append(tmp_path / f"part{k}.jsonl")
        rows = [json.dumps({"text": d, "score": 1.0}) for d in DOCUMENTS[100 * k : 100 * (k + 1)]]
        files[-1].write_text("\n".join(rows))

    def open_stream(name, config):
        names = [str(f) for f in files]
        return datasets.load_dataset("json", data_files=names, split="train", streaming=True)

    return open_stream


def documents(path):
    parts = path.read_text().split(f"\n{SEPARATOR}\n")
    assert parts[-1] == ""
    return parts[:-1]


def test_the_beginning_is_streamed_once(load, tmp_path):
    path = hub_text("hub:me/some:small", megabytes=1, cache=tmp_path / "c", load=load)
    assert path.name == "hub--me--some--small--1mb.txt"
    assert documents(path) == DOCUMENTS  # less than a megabyte: all of it

    def refuse(name, config):
        raise AssertionError("streamed again")

    assert hub_text("hub:me/some:small", megabytes=1, cache=tmp_path / "c", load=refuse) == path
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [path.name]


def test_a_broken_stream_goes_on_where_it_broke(load, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_SAVE_EVERY", 500)
    read = []

    class Breaks:
        """A stream whose connection is lost after some documents."""

        def __init__(self, stream, after):
            self.stream, self.after = stream, after
            self.state_dict, self.load_state_dict = stream.state_dict, stream.load_state_dict

        def __iter__(self):
            for i, row in enumerate(self.stream):
                if i == self.after:
                    raise ConnectionError("connection lost")
                read.append(row["text"])
                yield row

    with pytest.raises(UserError, match=r"hub:me/some: the stream broke \(ConnectionError: connection lost\)"):
        hub_text("hub:me/some", megabytes=1, cache=tmp_path / "c", load=lambda *a: Breaks(load(*a), 250))
    first = len(read)
    assert not list((tmp_path / "c").glob("*.txt"))
    path = hub_text("hub:me/some", megabytes=1, cache=tmp_path / "c", load=lambda *a: Breaks(load(*a), 1000))
    assert documents(path) == DOCUMENTS
    assert len(read) - first < 200  # the second time it did not begin at the first document


def test_of_two_at_once_one_streams_and_the_other_waits(load, tmp_path):
    """Two runs of a sweep on a new machine: flock tells two openings of a file apart, in one process too."""
    begun, go, lines = threading.Event(), threading.Event(), []

    class Slow:
        def __init__(self, stream):
            self.stream, self.state_dict = stream, stream.state_dict

        def __iter__(self):
            begun.set()
            assert go.wait(60)
            yield from self.stream

    def refuse(name, config):
        raise AssertionError("streamed twice")

    def say(line):
        lines.append(line)
        go.set()  # the first goes on when the second says that it waits

    ask = functools.partial(hub_text, "hub:me/some", megabytes=1, cache=tmp_path / "c")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, load=lambda *a: Slow(load(*a)))
        assert begun.wait(60)
        second = pool.submit(ask, load=refuse, say=say)
        assert documents(first.result()) == documents(second.result()) == DOCUMENTS
    assert lines == ["streaming hub:me/some: another process does it, waiting"]
    assert [p.name for p in (tmp_path / "c").iterdir()] == [first.result().name]


def test_who_waits_for_one_that_gives_up_tries_himself(load, tmp_path):
    """The first finds no document; the second has waited for a file that is not there any more."""
    begun, go = threading.Event(), threading.Event()

    class Empty:
        def __init__(self):
            self.state_dict = dict

        def __iter__(self):
            begun.set()
            assert go.wait(60)
            yield from ()

    ask = functools.partial(hub_text, "hub:me/some", megabytes=1, cache=tmp_path)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, load=lambda *_: Empty())
        assert begun.wait(60)
        second = pool.submit(ask, load=load, say=lambda line: go.set())
        with pytest.raises(UserError, match="no document in it"):
            first.result()
        assert documents(second.result()) == DOCUMENTS


def test_a_note_without_its_bytes_is_not_believed(load, tmp_path):
    """A cache from which somebody removed the unfinished file only."""
    (tmp_path / "hub--me--some--1mb.part.json").write_text(json.dumps({"bytes": 5000, "stream": {}}))
    assert documents(hub_text("hub:me/some", megabytes=1, cache=tmp_path, load=load)) == DOCUMENTS


def test_each_process_has_its_own_share(load, tmp_path):
    shares = [
        documents(hub_text("hub:a/b", megabytes=1, process=p, processes=2, cache=tmp_path / "c", load=load))
        for p in (0, 1)
    ]
    assert sorted(shares[0] + shares[1]) == sorted(DOCUMENTS)
    assert 150 < len(shares[0]) < 250


def test_no_more_is_streamed_than_asked_for(tmp_path):
    row = {"text": "x" * 99_999}

    def endless(name, config):
        return datasets.IterableDataset.from_generator(lambda: iter([row] * 1000))

    path = hub_text("hub:a/b", megabytes=2, cache=tmp_path, load=endless)
    assert 2_000_000 <= path.stat().st_size < 2_200_000


@pytest.mark.parametrize(
    ("source", "rows", "message"),
    [
        ("hub:", [], "give hub:OWNER/NAME"),
        ("hub:a/b", [{"content": "x"}], "no column 'text' of strings, but content"),
        ("hub:a/b", [{"text": ""}], "no document in it"),
    ],
)
def test_what_cannot_be_streamed_is_one_line(source, rows, message, tmp_path):
    with pytest.raises(UserError, match=message) as e:
        hub_text(
            source,
            megabytes=1,
            cache=tmp_path,
            load=lambda *_: datasets.IterableDataset.from_generator(lambda: iter(rows)),
        )
    assert "\n" not in str(e.value)
    assert not list(tmp_path.glob("*.txt"))


def test_without_a_network_the_error_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="the stream broke") as e:
        hub_text("hub:nobody/nothing-here", megabytes=1, cache=tmp_path)
    assert "'bundled'" in str(e.value)
    assert "\n" not in str(e.value)
