"""The options of each command, as dataclasses that tyro reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tracr_jax.config import RunConfig
from tracr_jax.names import BUNDLED
from tracr_jax.presets import Method


@dataclass(frozen=True)
class Inject:
    """Inject a program into a language model, measure it, and leave a run folder."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    preset: Method = "variable"
    """Where the defaults below come from: exchange training, variable alignment, the paper's loss at our sizes,
    the fine-tuning baseline, the compiled program beside the frozen model, the original as coded, or the original
    with its faults mended."""
    folder: Path | None = None
    """Run folder; default runs/TASK-LM-METHOD-seedN."""
    resume: bool = False
    """Continue the run of the folder from its newest checkpoint."""
    cluster: str = ""
    """Several processes, with --mesh over the devices of all: "auto" (TPU slices, Slurm, Open MPI), or
    HOST:PORT,COUNT,INDEX (experiments/scaling.md)."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra `tensorboard`)."""
    wandb: bool = False
    """Also log to Weights & Biases (extra `wandb`)."""
    trackio: bool = False
    """Also log to Trackio (extra `trackio`)."""


@dataclass(frozen=True)
class Resume:
    """Continue a run that was stopped from its newest checkpoint, with the options it started with."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    task: str | None = None
    """The task's code, path/to/file.py:NAME, if the run was started from Python with a task object."""
    mesh: str | None = None
    """Devices to continue on, if other than those the run started on; as in inject."""
    steps: int | None = None
    """Training steps in all, if more than the run was made for: the learning rate and the language term's weight
    go on as in a run of so many."""
    cluster: str = ""
    """Several processes, as in inject."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra `tensorboard`)."""
    wandb: bool = False
    """Also log to Weights & Biases (extra `wandb`)."""
    trackio: bool = False
    """Also log to Trackio (extra `trackio`)."""


@dataclass(frozen=True)
class Tasks:
    """The built-in programs, or those of the files in a folder, compiled for a model's tokenizer."""

    folder: tyro.conf.Positional[Path | None] = None
    """Of Python files, each a task or a RASP program and its vocabulary; default the built-in programs."""
    lm: str = BUNDLED
    """The model whose tokenizer is used; its weights are not loaded."""


@dataclass(frozen=True)
class Check:
    """Show a program, its items and its sets for a model, and prove the compiled network, without training it."""

    task: tyro.conf.Positional[str] = "dyck"
    """One of `tracr-jax tasks`, or path/to/file.py:NAME: a task, or a RASP program and its vocabulary."""
    lm: str = BUNDLED
    """The model whose tokenizer and depth are used; its weights are not loaded."""
    tracr: bool = False
    """Also compile with tracr, which may take minutes, and compare all weights."""


@dataclass(frozen=True)
class Evaluate:
    """Score a finished run again; rewrites its evaluation.json."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    items: int | None = None
    """Items of each set; default as many as the run itself measured (its --eval-items), so that runs compare."""
    full: bool = False
    """Whole sets instead of samples."""
    task: str | None = None
    """The task's own code, path/to/file.py:NAME, where it is no longer where the run found it."""


@dataclass(frozen=True)
class Decode:
    """Decode the program's variables from the model at every token of a text."""

    run: tyro.conf.Positional[Path]
    """The run folder, or an export."""
    text: tyro.conf.Positional[str | None] = None
    """Any text, in which \\n stands for a new line; default: the first prompt of the test set."""
    program: str | None = None
    """Of a model with several programs (inject --onto), the name of the one to read; default the newest."""
    layer: int = -1
    """0..L, or from the end; by default the last layer that the adapter was trained to read."""
    all: bool = False
    """Every variable, in as many tables as the terminal needs; otherwise those that fit."""
    task: str | None = None
    """The task's own code, path/to/file.py:NAME: judges texts longer than the compiled program's table."""


@dataclass(frozen=True)
class Explore:
    """A local page: type a prompt, see the program's variables by token and layer, set one; Ctrl-C ends it."""

    run: tyro.conf.Positional[Path]
    """The run folder, or an export."""
    port: int = 8765
    """Port on 127.0.0.1; 0 picks one that is not in use."""
    program: str | None = None
    """Of a model with several programs (inject --onto), the name of the one to read; default the newest."""
    task: str | None = None
    """The task's own code, path/to/file.py:NAME: judges texts longer than the compiled program's table."""


@dataclass(frozen=True)
class Interpret:
    """Which variables are decodable and causally used: scorecard, noise, swaps; writes interpretation.json."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    prompts: int = 1000
    """Test prompts in the noise experiment."""
    pairs: int = 100
    """Pairs of items for each swapped variable and layer."""
    items: int = 300
    """Items of each set in the scorecard."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the noise: each is a pass over the prompts at every strength and kind."""
    as_coded: bool = False
    """Span the random subspace by the original's uniform rows."""
    task: str | None = None
    """The task's own code, path/to/file.py:NAME, where it is no longer where the run found it."""


@dataclass(frozen=True)
class Controls:
    """A run beside models that do not run its program: what is read and used of it there; writes controls.json."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    kinds: str = "untouched,random"
    """Which models: untouched, random (the same architecture untrained), refitted (the injected one, with an
    adapter that has seen nothing of its training)."""
    finetuned: Path | None = None
    """A finished run of the same task and model with --preset finetune, as one more."""
    steps: int | None = None
    """Steps in which an adapter is fitted to each; default those of the run, at most 300."""
    prompts: int = 300
    """Test prompts in the noise experiment."""
    pairs: int = 60
    """Pairs of items for each swapped variable and layer."""
    items: int = 100
    """Items of each set in the scorecard."""
    task: str | None = None
    """The task's own code, path/to/file.py:NAME, where it is no longer where the run found it."""


@dataclass(frozen=True)
class Retention:
    """Compare a run's language modelling with the original model's; writes the run's retention.json."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    baseline: Path | None = None
    """A finished run of the same task and model with --preset finetune, for the third column."""
    items: int | None = None
    """Limit on the texts, lines or windows of each set (the first ones); default 800 texts, 2,000 lines and
    windows of 32,768 tokens in all."""
    full: bool = False
    """Whole sets."""
    data_dir: Path | None = None
    """Folder with SST-2/dev.tsv and MRPC/dev.tsv, or sst2.jsonl and mrpc.jsonl (or $TRACR_JAX_DATA); else they
    are downloaded from the hub (extra `hub`)."""


@dataclass(frozen=True)
class Compare:
    """Two runs of a task on the same items: the difference on every set, its interval and its p value."""

    first: tyro.conf.Positional[Path]
    """A run folder, or an export."""
    second: tyro.conf.Positional[Path]
    """Another of the same task."""
    json: Path | None = None
    """Also write everything to this file."""
    task: str | None = None
    """The task's own code, path/to/file.py:NAME, where answers are measured again and it is not found."""


@dataclass(frozen=True)
class Sweep:
    """One task by several methods, weights of the language term and seeds: answers against the language lost."""

    task: tyro.conf.Positional[str]
    """One of `tracr-jax tasks`, or path/to/file.py:NAME."""
    lm: str = BUNDLED
    """The model, as in inject."""
    methods: str = "variable,lora:16,finetune"
    """Presets, what is trained (lora:16, blocks:0-7, …, with the preset variable), or both: exchange+lora:16; with
    random: in front, of the untrained model."""
    retention: str = "0.05,0.3,2"
    """Weights of the language term."""
    seeds: int = 3
    """How many, from 0 on; all runs of a seed come before the next."""
    steps: int | None = None
    """Steps of each run; default the preset's."""
    eval_items: int | None = None
    """Items of each evaluation set; default the preset's."""
    by: str = ""
    """The evaluation set that decides; default the one that all runs together answer worst."""
    folder: Path | None = None
    """Receives the runs, sweep.json and report.html; default runs/sweep-TASK-LM. Called again, it continues."""


@dataclass(frozen=True)
class Report:
    """One self-contained HTML page on one or several runs, with PNG figures; made from the run folders alone."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders, side by side."""
    out: Path | None = None
    """The page; default report.html in the first run folder."""
    picture: Path | None = None
    """Also draw one picture (.png) of the first run: the variables read in one prompt, from interpretation.json,
    and its answers."""
    example: int | None = None
    """Which of the prompts in interpretation.json --picture shows, counted from 0; default the first."""


@dataclass(frozen=True)
class Export:
    """Export a finished run as a Hugging Face folder that `transformers` loads without this package."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    folder: tyro.conf.Positional[Path]
    """The folder to write; it must not exist yet, or be empty."""
    form: Annotated[Literal["folder", "interpbench"], tyro.conf.arg(name="as")] = "folder"
    """"interpbench": with the program's ground truth for causal-abstraction benchmarks, in FOLDER/interpbench."""
    pairs: int | None = None
    """Counterfactual pairs of each variable, with --as interpbench; default 50."""
    activations: bool = False
    """Also write labelled activations of the residual stream (safetensors and JSON)."""
    items: int | None = None
    """Items of each set, with --activations; default 50."""
    task: str | None = None
    """The task's own code, path/to/file.py:NAME, for --as interpbench and --activations."""


@dataclass(frozen=True)
class Apply:
    """Put a program, trained with --train lora, on the model it was trained on; `remove` takes it off again."""

    adapter: tyro.conf.Positional[Path]
    """program_adapter.safetensors, or an exported folder that holds it."""
    model: tyro.conf.Positional[str]
    """The model without the program: a name as of --lm, or a folder."""
    folder: tyro.conf.Positional[Path]
    """The folder to write; it must not exist yet, or be empty."""


@dataclass(frozen=True)
class Remove:
    """Take a program off again: the model that it was put on, every weight bit for bit."""

    model: tyro.conf.Positional[Path]
    """The folder of a model with a program, from `apply`, or from `export` of a run with --train lora."""
    folder: tyro.conf.Positional[Path]
    """The folder to write; it must not exist yet, or be empty."""
