"""SST-2 and MRPC as two-shot prompts, from files on disk or from the hub. Source: docs/method.md §10.

The data are not bundled. They are looked for in a folder (GLUE's own .tsv files, or .jsonl with the hub's names),
then on the Hugging Face hub (extra `hub`); where neither has them, `NotRun` says why. Nothing here waits for a
network: the hub is asked only where HF_HUB_OFFLINE is not set and it answers within seconds.
Differs from the original: the instructions and the shots are our own words.
"""

import http.client
import importlib.util
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.constants import ENDPOINT

from tracr_jax.errors import UserError, describe

DATA_VARIABLE = "TRACR_JAX_DATA"
_HUB_SECONDS = 5


class NotRun(Exception):
    """A set that cannot be measured here; the message is the reason."""


@dataclass(frozen=True)
class Example:
    """One prompt and the index of its true answer."""

    prompt: str
    label: int


@dataclass(frozen=True)
class Glue:
    """A yes-or-no task of GLUE."""

    title: str
    folders: tuple[str, ...]
    """Names of its folder or file; the last one is the hub's."""
    columns: tuple[tuple[str, ...], ...]
    """Of each text, its column's name in GLUE's files and on the hub."""
    labels: tuple[str, ...]
    """The same for the label, 0 or 1."""
    answers: tuple[str, str]
    """What the model is to say for label 0 and label 1, with the space before it."""
    head: str
    """The instruction and two shots."""
    form: str
    """One question; {0}, {1} are the texts."""

    def prompt(self, texts: Sequence[str]) -> str:
        """The instruction, two solved questions, and the question about `texts`."""
        return self.head + self.form.format(*(t.strip() for t in texts))


SST2 = Glue(
    title="SST-2",
    folders=("SST-2", "sst2"),
    columns=(("sentence",),),
    labels=("label",),
    answers=(" negative", " positive"),
    head="""Is the film review positive or negative? Answer with one of these two words.

Review: A warm and clever film, and every actor in it is a joy to watch.
Answer: positive

Review: Dull and far too long; I wanted to leave after ten minutes.
Answer: negative

""",
    form="Review: {0}\nAnswer:",
)

MRPC = Glue(
    title="MRPC",
    folders=("MRPC", "mrpc"),
    columns=(("#1 String", "sentence1"), ("#2 String", "sentence2")),
    labels=("Quality", "label"),
    answers=(" no", " yes"),
    head="""Do the two sentences mean the same? Answer yes or no.

Sentence 1: The company said its profit rose by ten percent in the second quarter.
Sentence 2: Second-quarter earnings grew ten percent, the company reported.
Answer: yes

Sentence 1: She reads a book every evening before she goes to bed.
Sentence 2: They watched the match together in the garden.
Answer: no

""",
    form="Sentence 1: {0}\nSentence 2: {1}\nAnswer:",
)


def examples(task: Glue, *, folder: Path | None = None) -> list[Example]:
    """The validation set as prompts: from `folder`, else from $TRACR_JAX_DATA, else from the hub.

    A folder holds e.g. SST-2/dev.tsv, sst2/validation.jsonl or sst2.jsonl.

    Raises:
      NotRun: there are no data, or those found are damaged.
      UserError: there is no such folder.
    """
    folder = folder or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: no such folder for the data of SST-2 and MRPC (--data-dir, ${DATA_VARIABLE})")
    path = _find(task, folder) if folder is not None else None
    if path is not None:
        records, where = list(_read(path)), str(path)
    else:
        try:
            records, where = _from_hub(task), "the hub"
        except NotRun as e:
            wanted = f"no {task.folders[0]}/dev.tsv or {task.folders[-1]}.jsonl in"
            absent = f"{wanted} {folder}" if folder is not None else "no data on disk (--data-dir)"
            raise NotRun(f"{absent}, and {e}") from e
    if not records:
        raise NotRun(f"{where} holds no example")
    return [_example(task, r, f"{where}, example {i + 1}") for i, r in enumerate(records)]


def _find(task: Glue, folder: Path) -> Path | None:
    parts = [f"{n}/{split}" for n in task.folders for split in ("dev", "validation")] + list(task.folders)
    places = (folder / f"{part}{ending}" for part in parts for ending in (".tsv", ".jsonl"))
    return next((p for p in places if p.is_file()), None)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    try:
        # Not splitlines: a sentence may hold U+2028. Not csv: GLUE's files quote nothing.
        lines = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as e:
        raise NotRun(f"{path} cannot be read ({e})") from e
    if path.suffix == ".tsv":
        names = lines[0].split("\t") if lines else []
        for line in lines[1:]:
            yield dict(zip(names, line.split("\t"), strict=False))
        return
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as e:
            raise NotRun(f"{path}, line {number}: not JSON ({e})") from e
        if not isinstance(record, dict):
            raise NotRun(f"{path}, line {number}: not a JSON object")
        yield record


def _example(task: Glue, record: dict[str, Any], where: str) -> Example:
    def field(names: tuple[str, ...]) -> str:
        found = next((record[n] for n in names if record.get(n) is not None), None)
        if found is None:
            raise NotRun(f"{where}: no column {' or '.join(names)}, only {', '.join(record) or 'none'}")
        return str(found)

    label = field(task.labels).strip()
    if label not in ("0", "1"):
        raise NotRun(f"{where}: the label is {label!r}, not 0 or 1")
    return Example(task.prompt([field(c) for c in task.columns]), int(label))


def _from_hub(task: Glue) -> list[dict[str, Any]]:
    if importlib.util.find_spec("datasets") is None:
        raise NotRun("the package datasets is not installed (pip install 'tracr-jax[hub]')")
    offline = [n for n in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE") if _is_set(n)]
    if offline:
        raise NotRun(f"{offline[0]} is set")
    if not _hub_answers():
        raise NotRun("the hub does not answer")
    import datasets  # pyright: ignore[reportMissingImports]

    try:
        return list(datasets.load_dataset("nyu-mll/glue", task.folders[-1], split="validation"))  # pyright: ignore[reportReturnType]
    except (
        Exception
    ) as e:  # the hub, its transport and the reader have errors of their own; none may end the suite
        raise NotRun(f"the hub's copy was not read ({describe(e, most=120)})") from e


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")  # as huggingface_hub reads it


def _hub_answers() -> bool:
    """One request, a few seconds at most: downloads would retry for minutes where packets are dropped."""
    request = urllib.request.Request(ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_HUB_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # an answer all the same
    except (OSError, http.client.HTTPException, ValueError):
        return False
