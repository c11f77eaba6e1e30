"""How many directions the variables of each program need, by what they share.

    python -m experiments.exchange_directions

Writes experiments/exchange/directions.json: for each task and K (directions of a variable with many values) the
number of reserved directions, with values merged that no reader tells apart, and with directions handed on
after the last reader.
"""

from pathlib import Path

from tracr_jax.config import ExchangeConfig
from tracr_jax.files import write_json
from tracr_jax.tasks.registry import get_task
from tracr_jax.teacher import cached_compile
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.train.reserved import reserve

LENGTHS = {"dyck": 45, "count": 50, "int_sum": 20}  # positions that the bundled model's runs need


def main() -> None:
    out = []
    for name, length in LENGTHS.items():
        task = get_task(name)
        teacher = cached_compile(
            lambda task=task, length=length: task.program(max_seq_len=length),
            vocab=task.vocab(),
            max_seq_len=length,
            mlp_exactness=task.mlp_exactness(length),
        )
        oracle = Oracle(task.program(max_seq_len=length))
        for k in (3, 4, 6, 8):
            for merged in (False, True):
                for handed in (False, True):
                    config = ExchangeConfig(directions=k, merge_values=merged, hand_on=handed)
                    total = reserve(teacher, oracle, config).total
                    row = {"task": name, "k": k, "merge_values": merged, "hand_on": handed, "directions": total}
                    print(row)
                    out.append(row)
    write_json(Path(__file__).parent / "exchange" / "directions.json", {"rows": out})


if __name__ == "__main__":
    main()
