"""What each command does: options in, a call of the library, tables out."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tracr_jax.cli import options
from tracr_jax.cli.interrupt import answering
from tracr_jax.cli.parse import listed, one_of, only_with, parse, peek
from tracr_jax.config import RunConfig
from tracr_jax.config_file import read_config, to_dict
from tracr_jax.errors import UserError
from tracr_jax.host import dispatch_inline
from tracr_jax.presets import check_read, check_train, preset
from tracr_jax.progress import showing

if TYPE_CHECKING:
    from tracr_jax.runs.model import Injected
    from tracr_jax.train.metrics import MetricWriter


_EXPORTED = 50  # items and pairs where none are asked for


def _inject(argv: list[str]) -> None:
    # The task, the model and the preset decide what the other defaults are.
    argv = [part for a in argv for part in (a.split("=", 1) if a.startswith("--task=") else [a])]
    if "--task" in argv[:-1]:
        at = argv.index("--task")
        argv = [argv[at + 1], *argv[:at], *argv[at + 2 :]]
    task = argv[0] if argv and not argv[0].startswith("-") else "dyck"
    first = {name: peek(argv, name) for name in ("lm", "preset", "onto")}
    # What goes on from a run has its model.
    lm = first["lm"] or (read_config(first["onto"]).lm if first["onto"] else None)
    start = preset(first["preset"] or "variable", task=task, lm=lm)
    args = parse(options.Inject, argv, default=options.Inject(start))
    check_train(args.preset, args.config.train)
    check_read(args.config, start)
    if args.config.task != task:
        raise UserError(f"the task comes first: tracr-jax inject {args.config.task} and then the options")
    _start(args.cluster)
    from tracr_jax.injection import inject
    from tracr_jax.runs.folder import default_folder

    folder = args.folder or default_folder(args.config)
    with answering(folder):
        run = inject(
            args.config.task,
            lm=args.config.lm,
            config=args.config,
            folder=folder,
            resume=args.resume,
            **_shown(args, folder, args.config),
        )
        _finish(run)


def _resume(argv: list[str]) -> None:
    args = parse(options.Resume, argv)
    config = read_config(args.run)
    _start(args.cluster)
    from tracr_jax.injection import resume

    with answering(args.run):
        run = resume(args.run, task=args.task, mesh=args.mesh, steps=args.steps, **_shown(args, args.run, config))
        _finish(run)


def _start(cluster: str) -> None:
    if cluster:
        from tracr_jax.train.mesh import start_processes

        start_processes(cluster)  # before anything else asks JAX for its devices
    dispatch_inline()


def _console() -> Console:
    import jax

    return Console(highlight=False, quiet=jax.process_index() > 0)  # of several processes, the first speaks


def _shown(args: "options.Inject | options.Resume", folder: Path, config: RunConfig) -> dict[str, Any]:
    """Where the numbers of a run go while it is trained."""
    console = _console()
    return {
        "writers": () if console.quiet else _writers(args, folder, config),
        "progress": _live(),
        "say": _dimly(console),
    }


def _dimly(console: Console) -> Callable[[str], None]:
    """Prints a line that says what is being done."""
    return lambda line: console.print(line, style="dim", markup=False, soft_wrap=True)


def _live() -> bool:
    return sys.stdout.isatty()


def _finish(run: "Injected") -> None:
    console = _console()
    if console.quiet:
        return
    from tracr_jax.report.page import write_report
    from tracr_jax.report.terminal.table import print_evaluation

    assert run.evaluation is not None  # it was just made
    assert run.folder is not None
    print_evaluation(console, run.evaluation)
    console.print(f"\nrun folder: {run.folder}", markup=False, soft_wrap=True)
    console.print(f"report: {write_report([run.folder])}", markup=False, soft_wrap=True)


def _tasks(argv: list[str]) -> None:
    args = parse(options.Tasks, argv)
    from tracr_jax.report.terminal.tasks import print_tasks
    from tracr_jax.runs.listing import list_folder, list_tasks

    console = Console(highlight=False)
    with console.status("compiling") as status:
        say = status.update
        tasks = list(list_folder(args.folder, args.lm, say=say) if args.folder else list_tasks(args.lm, say=say))
    print_tasks(console, tasks)


def _check(argv: list[str]) -> None:
    args = parse(options.Check, argv)
    from tracr_jax.report.terminal.check import print_check
    from tracr_jax.runs.check import check

    with showing(_live()):
        checked = check(args.task, lm=args.lm, tracr=args.tracr)
    print_check(Console(highlight=False), checked)


def _writers(
    args: "options.Inject | options.Resume", folder: Path, config: RunConfig
) -> tuple["MetricWriter", ...]:
    from tracr_jax.train.metrics import TensorBoard, WandbLike

    writers: list[MetricWriter] = []
    if args.tensorboard:
        writers.append(TensorBoard(folder / "tensorboard"))
    for service in ("wandb", "trackio"):
        if getattr(args, service):
            writers.append(WandbLike(service, project="tracr-jax", config=to_dict(config)))
    return tuple(writers)


def _evaluate(argv: list[str]) -> None:
    args = parse(options.Evaluate, argv)
    from tracr_jax.data.samples import check_items
    from tracr_jax.files import write_json
    from tracr_jax.measure.interference import OWN, evaluate_programs
    from tracr_jax.report.terminal.table import print_evaluation
    from tracr_jax.runs.model import open

    console = Console(highlight=False)
    one_of(args.full, args.items, "--full", "--items")
    check_items(args.items)  # before the run is opened, which takes a while
    run = open(args.run, task=args.task, finished=True)
    items = None if args.full else OWN if args.items is None else args.items
    with showing(_live()):
        result = evaluate_programs(run, items=items, say=_dimly(console))
    write_json(args.run / "evaluation.json", result)
    print_evaluation(console, result)


def _decode(argv: list[str]) -> None:
    args = parse(options.Decode, argv)
    if args.text is not None and re.fullmatch(r"-?\d+", args.text) and "--layer" in argv[:-2]:
        at = argv.index("--layer")
        if argv[at + 2 : at + 3] == [args.text]:
            raise UserError(
                f"unexpected word {args.text!r}: --layer takes one layer, here {args.layer}; a text to decode "
                "stands before the options"
            )
    from tracr_jax.interpret.decode import decode
    from tracr_jax.runs.model import open

    run = open(args.run, program=args.program, task=args.task)
    # Shells hand over a backslash and an n; the tasks' prompts end with a line of their own.
    text = args.text.replace("\\n", "\n") if args.text is not None else run.program.examples[0].prompt
    Console(highlight=False).print(decode(run, text).show(layer=args.layer, everything=args.all))


def _explore(argv: list[str]) -> None:
    args = parse(options.Explore, argv)
    from tracr_jax.explore import explore
    from tracr_jax.runs.model import open

    console = Console(highlight=False)
    run = open(args.run, program=args.program, task=args.task)
    explore(run, port=args.port, say=lambda line: console.print(line, markup=False, soft_wrap=True))


def _interpret(argv: list[str]) -> None:
    args = parse(options.Interpret, argv)
    from tracr_jax.interpret.study import interpret
    from tracr_jax.report.terminal.summary import print_interpretation
    from tracr_jax.runs.model import open

    console = Console(highlight=False)
    run = open(args.run, task=args.task, finished=True)
    with showing(_live(), console=console):
        result = interpret(
            run,
            prompts=args.prompts,
            pairs=args.pairs,
            items=args.items,
            seeds=args.seeds,
            as_coded=args.as_coded,
            folder=args.run,
            say=_dimly(console),
        )
    print_interpretation(console, result, result_name=run.program.result)


def _controls(argv: list[str]) -> None:
    args = parse(options.Controls, argv)
    _start("")
    from tracr_jax.controls import controls
    from tracr_jax.report.terminal.controls import print_controls
    from tracr_jax.runs.model import open

    console = Console(highlight=False)
    run = open(args.run, task=args.task, finished=True)
    with showing(_live(), console=console):
        result = controls(
            run,
            kinds=listed(args.kinds),
            finetuned=args.finetuned,
            steps=args.steps,
            prompts=args.prompts,
            pairs=args.pairs,
            items=args.items,
            say=_dimly(console),
        )
    print_controls(console, result)


def _retention(argv: list[str]) -> None:
    args = parse(options.Retention, argv)
    from tracr_jax.files import write_json
    from tracr_jax.measure.language.suite import measure_retention, open_baseline
    from tracr_jax.report.terminal.table import print_retention
    from tracr_jax.runs.folder import about
    from tracr_jax.runs.model import open

    console = Console(highlight=False)
    one_of(args.full, args.items, "--full", "--items")
    started = time.time()
    run = open(args.run, finished=True)
    baseline = None if args.baseline is None else open_baseline(args.baseline, run)
    with showing(_live()):
        result = measure_retention(
            run,
            baseline=baseline,
            items=args.items,
            full=args.full,
            data_dir=args.data_dir,
            say=_dimly(console),
        )
    result["about"] = about(started) | {"baseline": args.baseline and str(args.baseline)} | result["about"]
    write_json(args.run / "retention.json", result)
    print_retention(console, result)


def _report(argv: list[str]) -> None:
    args = parse(options.Report, argv)
    from tracr_jax.report.page import write_report
    from tracr_jax.report.png import draw_picture

    console = Console(highlight=False)
    say = lambda line: console.print(line, markup=False, soft_wrap=True)  # noqa: E731
    only_with(args.example, args.picture is not None, "--example", "--picture FILE")
    first = next(iter(args.runs), None)
    picture = first and args.picture and draw_picture(first, args.picture, example=args.example or 0)
    write_report(args.runs, out=args.out, say=say)
    if picture:
        say(str(picture))


def _export(argv: list[str]) -> None:
    args = parse(options.Export, argv)
    from tracr_jax.export import export_run
    from tracr_jax.files import refuse_filled
    from tracr_jax.runs.model import open

    benchmark = args.form == "interpbench"
    only_with(args.pairs, benchmark, "--pairs", "--as interpbench")
    only_with(args.items, args.activations, "--items", "--activations")
    refuse_filled(args.folder)  # now, and not after the run was opened
    run = open(args.run, task=args.task, finished=True)
    folder = export_run(
        run,
        args.folder,
        pairs=(_EXPORTED if args.pairs is None else args.pairs) if benchmark else None,
        activations=(_EXPORTED if args.items is None else args.items) if args.activations else None,
    )
    Console(highlight=False).print(f"exported: {folder}", markup=False, soft_wrap=True)


def _compare(argv: list[str]) -> None:
    args = parse(options.Compare, argv)
    from tracr_jax.files import write_json
    from tracr_jax.measure.compare import compare
    from tracr_jax.report.terminal.compare import print_comparison

    console = Console(highlight=False)
    with showing(_live()):
        found = compare(
            args.first,
            args.second,
            task=args.task,
            say=_dimly(console),
        )
    print_comparison(console, found)
    if args.json:
        write_json(args.json, found.record())


def _sweep(argv: list[str]) -> None:
    args = parse(options.Sweep, argv)
    try:
        weights = [float(w) for w in args.retention.split(",")]
    except ValueError as e:
        raise UserError(f"--retention must be numbers with commas between them, got {args.retention!r}") from e
    _start("")
    from tracr_jax.report.page import write_report
    from tracr_jax.report.terminal.sweep import print_sweep
    from tracr_jax.runs.folder import sweep_folder
    from tracr_jax.sweep import Planned, check_set, make_run, plan, sweep

    folder = args.folder or sweep_folder(args.task, args.lm)
    methods = listed(args.methods)
    sizes = {"seeds": args.seeds, "steps": args.steps, "eval_items": args.eval_items}
    planned = plan(args.task, lm=args.lm, methods=methods, retention=weights, folder=folder, **sizes)
    if args.by:
        check_set(args.task, args.by)
    console = _console()

    say = _dimly(console)

    def make(one: Planned) -> None:
        with answering(one.folder):
            make_run(one, progress=_live(), say=say)

    found = sweep(planned, folder, by=args.by, make=make, say=say)
    print_sweep(console, found)
    if found["points"]:
        console.print(f"\nsweep: {write_report(folder)}", markup=False, soft_wrap=True)
    if failed := found["failed"]:
        raise UserError(f"{len(failed)} of {found['runs']} runs failed, {failed[0]['folder']}: {failed[0]['why']}")


def _apply(argv: list[str]) -> None:
    args = parse(options.Apply, argv)
    from tracr_jax.export.program import apply_program

    folder = apply_program(args.adapter, args.model, args.folder)
    Console(highlight=False).print(f"with the program: {folder}", markup=False, soft_wrap=True)


def _remove(argv: list[str]) -> None:
    args = parse(options.Remove, argv)
    from tracr_jax.export.program import remove_program

    folder = remove_program(args.model, args.folder)
    Console(highlight=False).print(f"without the program: {folder}", markup=False, soft_wrap=True)


COMMANDS = {
    "inject": _inject,
    "resume": _resume,
    "tasks": _tasks,
    "check": _check,
    "evaluate": _evaluate,
    "decode": _decode,
    "explore": _explore,
    "interpret": _interpret,
    "controls": _controls,
    "retention": _retention,
    "compare": _compare,
    "sweep": _sweep,
    "report": _report,
    "export": _export,
    "apply": _apply,
    "remove": _remove,
}
