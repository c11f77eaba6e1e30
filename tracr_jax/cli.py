"""The command line: `tracr-jax inject TASK`, `tracr-jax report RUN`, … Each command is a call of the library."""

import dataclasses
import difflib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from rich.console import Console

from tracr_jax.config import RunConfig, read_config
from tracr_jax.errors import UserError
from tracr_jax.host import dispatch_inline, keep_pages, names_a_model
from tracr_jax.presets import METHODS, preset

_HELP = """tracr-jax: inject a known algorithm, written in RASP, into a pretrained language model

  tracr-jax inject [TASK] [options]   train, evaluate and leave a run folder
                                      TASK: dyck (default), int_sum, count, or path/to/file.py:NAME
                                      --onto RUN: into the model of a finished run, beside the programs it holds
  tracr-jax check [TASK] [--lm NAME]  before training: is the network the program, does it fit, what is asked
  tracr-jax evaluate RUN [options]    score a finished run again, on samples or on whole sets
  tracr-jax decode RUN ["text"]       the program's variables at every token of a text, read from the model
  tracr-jax explore RUN [options]     a local page: type a prompt, see its variables, set one, see what follows
  tracr-jax interpret RUN [options]   are its variables in the model, and used? decoding, noise, swaps
  tracr-jax retention RUN [options]   how much of the language is kept: LAMBADA, perplexities, KL, SST-2, MRPC
  tracr-jax report RUN [RUN…]         one page that opens from disk, from what the runs' folders hold, and figures
  tracr-jax export RUN DIR            a Hugging Face folder: weights, tokenizer, adapter, labels and a model card;
                                      --as interpbench: with ground truth for benchmarks; --activations
  tracr-jax COMMAND --help            every option of a command
"""


@dataclass(frozen=True)
class Inject:
    """Inject a program into a language model; every option of the run is below."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    preset: Literal["exchange", "variable", "cosine", "finetune", "paper", "paper-fixed"] = "variable"
    """Where the defaults below come from: exchange training, variable alignment, the paper's loss at our sizes,
    the fine-tuning baseline, the original as coded, or the original with its faults mended."""
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
class Check:
    """Show a program, its items and its sets for a model, and prove the compiled network, without training it."""

    task: tyro.conf.Positional[str] = "dyck"
    """dyck, int_sum, count, or path/to/file.py:NAME."""
    lm: str = "tiny"
    """The model whose tokenizer and depth count; its weights are not read."""
    tracr: bool = False
    """Also compile with tracr, which may take minutes, and compare all weights."""


@dataclass(frozen=True)
class Evaluate:
    """Score a finished run again; rewrites its evaluation.json."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    items: int = 300
    """Items of each set."""
    full: bool = False
    """Whole sets instead of samples."""
    task: str | None = None
    """The task's own code, path/to/file.py:NAME, where it is no longer where the run found it."""


@dataclass(frozen=True)
class Decode:
    """Show the value of the program's variables at every token of a text, as the model holds them."""

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
    """Of 127.0.0.1; 0 takes a free one."""
    program: str | None = None
    """Of a model with several programs (inject --onto), the name of the one to read; default the newest."""
    task: str | None = None
    """The task's own code, path/to/file.py:NAME: judges texts longer than the compiled program's table."""


@dataclass(frozen=True)
class Interpret:
    """What a run's model shows and uses of its program: scorecard, noise, swaps; writes interpretation.json."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    prompts: int = 1000
    """Test items under noise."""
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
class Retention:
    """How much of the language a run keeps, beside the original model; writes its retention.json."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    baseline: Path | None = None
    """A finished run of the same task and model with --preset finetune, for the third column."""
    items: int | None = None
    """At most so many texts, lines or windows of each set, the first ones; default 800 texts, 2,000 lines and
    windows of 32,768 tokens."""
    full: bool = False
    """Whole sets."""
    data_dir: Path | None = None
    """Folder with SST-2/dev.tsv and MRPC/dev.tsv, or sst2.jsonl and mrpc.jsonl (or $TRACR_JAX_DATA); else the
    hub is asked (extra `hub`)."""


@dataclass(frozen=True)
class Report:
    """One self-contained HTML page on one or several runs, and PNG figures beside it; reads their files only."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders, side by side."""
    out: Path | None = None
    """The page; default report.html in the first run folder."""
    picture: Path | None = None
    """Also draw one picture of the first run: the variables of an example, and its answers (.png)."""
    example: int = 0
    """The picture's example, counted from 0."""


@dataclass(frozen=True)
class Export:
    """Write a finished run as a Hugging Face folder that `transformers` loads with no code of ours."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    folder: tyro.conf.Positional[Path]
    """The folder to write; it must not exist yet, or be empty."""
    form: Annotated[Literal["folder", "interpbench"], tyro.conf.arg(name="as")] = "folder"
    """"interpbench": with the program's ground truth for causal-abstraction benchmarks, in DIR/interpbench."""
    pairs: int = 50
    """Counterfactual pairs of each variable, with --as interpbench."""
    activations: bool = False
    """Also write labelled activations of the residual stream (safetensors and JSON)."""
    items: int = 50
    """Items of each set, with --activations."""
    task: str | None = None
    """The task's own code, path/to/file.py:NAME, for the two above."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a UserError is one line on standard error and exit status 2."""
    if argv is None:
        keep_pages(one_arena=names_a_model(sys.argv))
    argv = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "inject": _inject,
        "check": _check,
        "evaluate": _evaluate,
        "decode": _decode,
        "explore": _explore,
        "interpret": _interpret,
        "retention": _retention,
        "report": _report,
        "export": _export,
    }
    console = Console(stderr=True, highlight=False)
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(_HELP)
        elif argv[0] not in commands:
            raise UserError(f"unknown command {argv[0]!r}; commands: {', '.join(commands)}")
        else:
            commands[argv[0]](argv[1:])
    except UserError as e:
        console.print("error:", style="bold red", end=" ")
        console.print(" ".join(str(e).split()), markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        # Only a training run leaves something to go on from.
        advice = "; continue with the same command and --resume" if argv[:1] == ["inject"] else ""
        console.print(f"interrupted{advice}", style="yellow")
        sys.exit(130)


def _inject(argv: list[str]) -> None:
    # A bare first word is the task; the preset and the model decide what the other defaults are.
    if argv and not argv[0].startswith("-"):
        argv = ["--task", *argv]
    first = {name: _peek(argv, name) for name in ("task", "lm", "preset", "onto")}
    if first["preset"] not in (None, *METHODS):
        raise UserError(f"unknown preset {first['preset']!r}; presets: {', '.join(METHODS)}")
    # What goes on from a run has its model.
    lm = first["lm"] or (read_config(first["onto"]).lm if first["onto"] else None)
    start = preset(first["preset"] or "variable", task=first["task"] or "dyck", lm=lm)
    args = _parse(Inject, argv, default=Inject(start))
    if args.cluster:
        from tracr_jax.train.mesh import start_processes

        start_processes(args.cluster)  # before anything else asks JAX for its devices
    import jax

    dispatch_inline()

    from tracr_jax.injection import inject
    from tracr_jax.report.terminal.table import print_evaluation

    console = Console(highlight=False, quiet=jax.process_index() > 0)  # of several processes, the first speaks
    run = inject(
        args.config.task,
        lm=args.config.lm,
        config=args.config,
        folder=args.folder,
        resume=args.resume,
        writers=() if console.quiet else _writers(args),
        progress=sys.stderr.isatty() or sys.stdout.isatty(),
        say=lambda line: console.print(line, style="dim", markup=False, soft_wrap=True),
    )
    if console.quiet:
        return
    assert run.evaluation is not None  # it was just made
    assert run.folder is not None
    print_evaluation(console, run.evaluation)
    console.print(f"\nrun folder: {run.folder}", markup=False)
    from tracr_jax.report import write_report

    console.print(f"report: {write_report([run.folder])}", markup=False, soft_wrap=True)


def _check(argv: list[str]) -> None:
    args = _parse(Check, argv)
    from tracr_jax.report.terminal.check import print_check
    from tracr_jax.runs.check import check

    print_check(Console(highlight=False), check(args.task, lm=args.lm, tracr=args.tracr))


def _writers(args: Inject):
    from tracr_jax.config import to_dict
    from tracr_jax.runs.folder import default_folder
    from tracr_jax.train.metrics import MetricWriter, TensorBoard, WandbLike

    writers: list[MetricWriter] = []
    if args.tensorboard:
        writers.append(TensorBoard((args.folder or default_folder(args.config)) / "tensorboard"))
    for service in ("wandb", "trackio"):
        if getattr(args, service):
            writers.append(WandbLike(service, project="tracr-jax", config=to_dict(args.config)))
    return tuple(writers)


def _evaluate(argv: list[str]) -> None:
    args = _parse(Evaluate, argv)
    from tracr_jax.data.samples import check_items
    from tracr_jax.files import write_json
    from tracr_jax.measure.interference import evaluate_programs
    from tracr_jax.report.terminal.table import print_evaluation
    from tracr_jax.runs.model import open

    console = Console(highlight=False)
    items = None if args.full else args.items
    check_items(items)  # before the run is opened, which takes a while
    result = evaluate_programs(
        open(args.run, task=args.task),
        items=items,
        progress=lambda line: console.print(line, style="dim", markup=False, soft_wrap=True),
    )
    write_json(args.run / "evaluation.json", result)
    print_evaluation(console, result)


def _decode(argv: list[str]) -> None:
    args = _parse(Decode, argv)
    from tracr_jax.interpret.decode import decode
    from tracr_jax.runs.model import open

    run = open(args.run, program=args.program, task=args.task)
    # Shells hand over a backslash and an n; the tasks' prompts end with a line of their own.
    text = args.text.replace("\\n", "\n") if args.text is not None else run.program.examples[0].prompt
    Console(highlight=False).print(decode(run, text).show(layer=args.layer, everything=args.all))


def _explore(argv: list[str]) -> None:
    args = _parse(Explore, argv)
    from tracr_jax.explore import explore
    from tracr_jax.runs.model import open

    console = Console(highlight=False)
    run = open(args.run, program=args.program, task=args.task)
    explore(run, port=args.port, say=lambda line: console.print(line, markup=False, soft_wrap=True))


def _interpret(argv: list[str]) -> None:
    args = _parse(Interpret, argv)
    from tracr_jax.interpret.study import interpret
    from tracr_jax.report.terminal.summary import print_interpretation, progress_bars
    from tracr_jax.runs.model import open

    console = Console(highlight=False)
    run = open(args.run, task=args.task)
    with progress_bars(console, live=sys.stdout.isatty()) as progress:
        result = interpret(
            run,
            prompts=args.prompts,
            pairs=args.pairs,
            items=args.items,
            seeds=args.seeds,
            as_coded=args.as_coded,
            folder=args.run,
            progress=progress,
        )
    print_interpretation(console, result, result_name=run.program.result)


def _retention(argv: list[str]) -> None:
    args = _parse(Retention, argv)
    from tracr_jax.files import write_json
    from tracr_jax.measure.language.suite import measure_retention, open_baseline
    from tracr_jax.report.terminal.table import print_retention
    from tracr_jax.runs.folder import about
    from tracr_jax.runs.model import open

    console = Console(highlight=False)
    started = time.time()
    run = open(args.run)
    result = measure_retention(
        run,
        baseline=None if args.baseline is None else open_baseline(args.baseline, run),
        items=args.items,
        full=args.full,
        data_dir=args.data_dir,
        progress=lambda line: console.print(line, style="dim", markup=False, soft_wrap=True),
    )
    baseline = None if args.baseline is None else str(args.baseline)
    result["about"] = about(started) | {"baseline": baseline} | result["about"]
    write_json(args.run / "retention.json", result)
    print_retention(console, result)


def _report(argv: list[str]) -> None:
    args = _parse(Report, argv)
    from tracr_jax.report import draw_picture, write_report

    console = Console(highlight=False)
    say = lambda line: console.print(line, markup=False, soft_wrap=True)  # noqa: E731
    write_report(args.runs, out=args.out, say=say)
    if args.picture:
        say(str(draw_picture(args.runs[0], args.picture, example=args.example)))


def _export(argv: list[str]) -> None:
    args = _parse(Export, argv)
    from tracr_jax.export import export_run
    from tracr_jax.files import read_json, refuse_filled
    from tracr_jax.runs.model import open

    refuse_filled(args.folder)  # now, and not after the run was opened
    evaluated = args.run / "evaluation.json"
    if (args.run / "config.json").exists() and not evaluated.exists():
        raise UserError(f"{evaluated}: no such file; measure the run first: tracr-jax evaluate {args.run}")
    run = open(args.run, task=args.task)
    folder = export_run(
        run,
        args.folder,
        evaluation=read_json(evaluated),
        pairs=args.pairs if args.form == "interpbench" else None,
        activations=args.items if args.activations else None,
    )
    Console(highlight=False).print(f"exported: {folder}", markup=False, soft_wrap=True)


def _peek(argv: Sequence[str], name: str) -> str | None:
    """Value of an option before the real parse, in either spelling."""
    for here, following in zip(argv, [*argv[1:], ""], strict=True):
        if here == f"--{name}":
            return following
        if here.startswith(f"--{name}="):
            return here.split("=", 1)[1]
    return None


T = TypeVar("T")


def _parse(kind: type[T], argv: list[str], *, default: T | None = None) -> T:
    """Parse with tyro, flat option names; an unknown option is one line with the nearest known ones."""
    args: T
    args, unknown = tyro.cli(  # pyright: ignore[reportAssignmentType]
        kind,
        args=argv,
        prog=f"tracr-jax {kind.__name__.lower()}",
        default=default,
        config=(tyro.conf.OmitArgPrefixes,),
        return_unknown_args=True,
    )
    if unknown:
        name = unknown[0].split("=")[0]
        known = [f"--{f.replace('_', '-')}" for f in _field_names(kind)]
        near = difflib.get_close_matches(name, known, n=2) or ["see --help"]
        raise UserError(f"unknown option {name!r}; did you mean {' or '.join(near)}?")
    return args


def _field_names(kind) -> list[str]:
    names = []
    for f in dataclasses.fields(kind):
        inner = RunConfig if f.name == "config" else f.type
        names += _field_names(inner) if dataclasses.is_dataclass(inner) else [f.name]
    return names
