"""Programs that the teacher's tests share: the three tasks, tracr's own, and one that only tracr compiles."""

import contextlib

import haiku as hk
from tracr.compiler import compiling, test_cases
from tracr.rasp import rasp

from tracr_jax.tasks.count import Count
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.tasks.int_sum import IntSum
from tracr_jax.teacher.graph import label_program

BOS, PAD = "bos", "pad"
TASKS = {
    "dyck_12": (Dyck(), 12),
    "dyck_20": (Dyck(), 20),
    "int_sum_2": (IntSum(digits=2, limit=50), 16),
    "int_sum_3": (IntSum(digits=3), 16),
    "count_16": (Count(), 16),
}
# One of each of tracr's own test programs (the others are the same programs on other inputs).
LIBRARY = {
    c["testcase_name"]: c
    for c in test_cases.TEST_CASES
    if c["testcase_name"]
    in {
        "frac_prevs_2",  # numerical Map and Aggregate
        "detect_pattern_abc",  # shifts: undefined values, two-argument maps
        "reverse_1",
        "length_numerical_1",  # numerical SelectorWidth
        "length_categorical_1",
        "pair_balance_1",  # LinearSequenceMap
        "shuffle_dyck2_1",  # numerical to categorical Map
        "sort_1",  # values that are fractions
        "sort_freq",
        "make_count_less_freq_numerical_1",
        "make_nary_sequencemap_1",  # values that are tuples
    }
}


def of_task(name):
    task, length = TASKS[name]
    return (lambda: task.program(max_seq_len=length)), task.vocab(), length


def circle():
    """Values 9 < 10 < "5a" < 9 in tracr's order: numbers by value, text against numbers by text."""
    return rasp.Map({"a": 9, "b": 10, "c": "5a"}.__getitem__, rasp.tokens).named("final_result")


def exact_tracr(program, vocab, length, *, exactness):
    """Compile with tracr; the random initial weights that it overwrites are zeros at once, which saves seconds."""
    program = program if isinstance(program, rasp.SOp) else program()
    label_program(program)
    with _zero_initialiser():
        return compiling.compile_rasp_to_model(
            program, set(vocab), length, causal=True, compiler_bos=BOS, compiler_pad=PAD, mlp_exactness=exactness
        )


@contextlib.contextmanager
def _zero_initialiser():
    kept = hk.initializers.VarianceScaling
    hk.initializers.VarianceScaling = lambda *a, **k: hk.initializers.Constant(0.0)  # pyright: ignore
    try:
        yield
    finally:
        hk.initializers.VarianceScaling = kept
