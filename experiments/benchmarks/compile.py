"""Compiling RASP programs: tracr's compiler against ours, seconds and peak memory.

  python -m experiments.benchmarks.compile

Every repetition is a fresh process (tracr keeps state between programs); the two compilers take turns. Seconds
are of the compilation alone, memory is the process's peak less what it had before. The 120-position count
program is compiled by ours only: tracr's dense weights for it would have a thousand million entries.
"""

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages()  # before anything is imported: it starts the process again

from collections.abc import Callable
from typing import Any

from experiments.benchmarks import common
from experiments.benchmarks.workers import Worker

# (task, options of the task, positions, whether tracr compiles it too)
PROGRAMS = {
    "dyck 12": ("dyck", {}, 12, True),
    "dyck 20": ("dyck", {}, 20, True),
    "dyck 40": ("dyck", {}, 40, True),
    "int_sum 3 digits": ("int_sum", {"digits": 3}, 16, True),
    "int_sum 4 digits": ("int_sum", {"digits": 4}, 20, True),
    "count 16": ("count", {}, 16, True),
    "count 30": ("count", {}, 30, True),
    "count 120": ("count", {}, 120, False),
}


def worker(options: dict[str, Any]) -> tuple[dict, Callable[[], dict[str, float]]]:
    """A side for `Worker`: one compilation. Imports are done before it is timed."""
    import dataclasses

    from tracr.compiler import compiling

    from tracr_jax.tasks.registry import get_task
    from tracr_jax.teacher import compile_program
    from tracr_jax.teacher.graph import label_program

    task: Any = get_task(options["task"])
    task = dataclasses.replace(task, **options["fields"]) if options["fields"] else task
    length = options["length"]
    vocab, exactness = task.vocab(), task.mlp_exactness(length)

    def run():
        before = common.peak_memory()
        program = task.program(max_seq_len=length)
        if options["ours"]:
            teacher = compile_program(program, vocab=vocab, max_seq_len=length, mlp_exactness=exactness)
            width = teacher.width
        else:
            label_program(program)  # ids drawn afresh: the same names, so the same order of directions as ours
            model = compiling.compile_rasp_to_model(
                program,
                set(vocab),
                length,
                causal=True,
                mlp_exactness=exactness,
                compiler_bos="bos",
                compiler_pad="pad",
            )
            width = len(model.residual_labels)
        return {"width": width, "added_gib": common.peak_memory() - before}

    return {}, run


def measure(name: str, *, repetitions: int) -> dict[str, Any]:
    """Both compilers in turn, a process for each compilation."""
    task, fields, length, with_tracr = PROGRAMS[name]

    def compile_in_a_process(ours: bool) -> common.Sample:
        with Worker(".compile:worker", {"task": task, "fields": fields, "length": length, "ours": ours}) as w:
            return w.go()

    sides = {"ours": lambda: compile_in_a_process(True)}
    if with_tracr:
        sides["tracr"] = lambda: compile_in_a_process(False)
    timed = common.in_turn(sides, repetitions=repetitions, warmup=0)
    widths = {v["width"] for t in timed.values() for v in t["values"]}
    if len(widths) != 1:
        raise RuntimeError(f"{name}: the compilers give residual streams of {sorted(widths)} directions")
    out: dict[str, Any] = {"program": name, "directions": widths.pop(), "sides": {}}
    for side, t in timed.items():
        memory = max(v["added_gib"] for v in t["values"])
        out["sides"][side] = common.summary(t["seconds"]) | {"added_peak_memory_gib": memory}
    if with_tracr:
        out["speedup"] = common.ratio(timed["tracr"]["seconds"], timed["ours"]["seconds"])
    return out


def main() -> None:
    args = common.parser(__doc__ or "", repetitions=3).parse_args()
    about, results, rows = common.machine(), [], []
    for name in ["dyck 12"] if args.small else PROGRAMS:
        result = measure(name, repetitions=args.repetitions)
        results.append(result)
        row = {"program": name, "directions": result["directions"]}
        for side in ("ours", "tracr"):
            found = result["sides"].get(side, {})
            row |= {f"{side}, s": found.get("median_s"), f"{side}, GiB": found.get("added_peak_memory_gib")}
        rows.append(row | {"faster": result.get("speedup", {}).get("median")})
        print(f"{name}: done", flush=True)
    common.finish("compile", args, about, results, title="compiling a program, medians", rows=rows)


if __name__ == "__main__":
    common.main(main)
