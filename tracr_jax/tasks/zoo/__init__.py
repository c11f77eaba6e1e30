"""The programs of the RASP paper ("Thinking Like Transformers", arXiv 2106.06981) in causal form, and others.

Each is a `StringTask` by name, with its own truth in plain Python beside the program: `get_task("sort")`.
"""

import functools

from tracr_jax.tasks.strings import StringTask
from tracr_jax.tasks.zoo import brackets, counts, order

_ABC, _AB = order.LETTERS, ("a", "b")

ZOO = {
    task.name: task
    for task in (
        StringTask(
            "histogram", counts.histogram, counts.LETTERS, "How often is each letter in", answer="sequence",
            truth=counts.histogram_of, max_length=5,
        ),
        StringTask(
            "double_histogram", counts.double_histogram, counts.LETTERS,
            "How many letters are as frequent as each in", answer="sequence", truth=counts.double_histogram_of,
            max_length=5,
        ),
        StringTask(
            "most_frequent", counts.most_frequent, counts.LETTERS, "Which letter is the most frequent in",
            answer="value", truth=counts.most_frequent_of,
        ),
        StringTask(
            "parity", counts.parity, _AB, "Is the first letter even in", truth=lambda x: x.count("a") % 2 == 0,
        ),
        StringTask(
            "majority", counts.majority, _AB, "Is the first letter more frequent in",
            truth=lambda x: x.count("a") > x.count("b"),
        ),
        StringTask(
            "modular_sum", counts.modular_sum, counts.DIGITS, "What is the sum modulo five of", answer="value",
            truth=counts.modular_sum_of, max_length=6,
        ),
        StringTask("copy", order.copy, _ABC, "Repeat the letters", answer="sequence", truth=list, max_length=6),
        StringTask(
            "reverse", order.reverse, _ABC, "Reverse the letters", answer="sequence", truth=lambda x: x[::-1],
            max_length=6,
        ),
        StringTask("sort", order.sort, _ABC, "Sort the letters", answer="sequence", truth=sorted, max_length=6),
        StringTask(
            "first_position", order.first_position, _ABC, "Where is the first of the alphabet in", answer="value",
            truth=order.first_position_of, max_length=8,
        ),
        StringTask(
            "dyck1", brackets.dyck1, brackets.ROUND, "Is this balanced", truth=brackets.balanced_of, max_length=14,
            generate=functools.partial(brackets.balanced_string, brackets.ROUND),
            rules={"first_and_last": brackets.first_and_last, "counts_ignoring_order": brackets.as_many},
        ),
        StringTask(
            "nested", brackets.nested, brackets.BOTH, "Is this properly nested", truth=brackets.balanced_of,
            generate=functools.partial(brackets.balanced_string, brackets.BOTH), max_length=8,
            rules={"first_and_last": brackets.first_and_last, "types_apart": brackets.types_apart},
        ),
    )
}  # fmt: skip
