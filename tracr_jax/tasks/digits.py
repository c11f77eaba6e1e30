"""What int_sum and count share: a RASP program that writes a number digit by digit. Source: docs/method.md §1.2.

The teacher writes the *next* token's digit: the most significant one at the marker, each following one at the
position of the digit emitted before it.
"""

# tracr types every value of a program as int | float | str | bool | None, whatever it can be here.
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportOptionalOperand=false

from collections.abc import Sequence

from tracr.rasp import rasp

_NOT_HERE = -1


def zero(name: str) -> rasp.SOp:
    """The constant 0."""
    return rasp.Map(lambda token: 0, rasp.tokens).named(name)


def write_digits(
    digits: Sequence[rasp.SOp], *, marker: str, max_seq_len: int, no_digits: rasp.SOp, no_result: rasp.SOp
) -> rasp.SOp:
    """The digit whose place is the current position, else 0.

    Args:
      digits: units first.
      marker: token at which the number begins.
      max_seq_len: places at or beyond it do not exist.
      no_digits: constant 0 with which counting digits begins.
      no_result: constant 0 that is written where no digit belongs.
    """
    # Digits from the most significant one that is not zero.
    count = no_digits
    for d in reversed(range(len(digits))):
        if d == len(digits) - 1:
            counts = rasp.Map(lambda digit: int(digit != 0), digits[d])
        else:
            counts = rasp.SequenceMap(lambda n, digit: int(n > 0 or digit != 0), count, digits[d])
        count = rasp.SequenceMap(lambda n, c: n + c, count, counts.named(f"digit_{d + 1}_counts"))
        count = count.named("num_digits" if d == 0 else f"num_digits_from_{d + 1}")
    at_marker = rasp.Select(rasp.tokens, rasp.indices, lambda key, query: key == marker)
    marker_at = rasp.Aggregate(at_marker, rasp.indices).named("equals_pos")
    result = no_result
    for d, digit in enumerate(digits):
        place = rasp.SequenceMap(_place(d, max_seq_len), marker_at, count).named(f"location_{d + 1}")
        here = rasp.SequenceMap(lambda p, i: p == i, place, rasp.indices).named(f"here_{d + 1}")
        written = rasp.SequenceMap(lambda h, value: value if h else _NOT_HERE, here, digit).named(
            f"written_{d + 1}"
        )
        result = rasp.SequenceMap(lambda w, r: r if w == _NOT_HERE else w, written, result)
        result = result.named("final_result" if d == len(digits) - 1 else f"result_to_{d + 1}")
    return result


def _place(d: int, max_seq_len: int):
    def place(marker_at: int, num_digits: int) -> int:
        at = marker_at + num_digits - d - 1
        return at if 0 < at < max_seq_len else 0

    return place


def one_digit_per_token(left: str, right: str) -> bool:
    """Merge filter: no token holds two digits; a space before one digit may stay. Source: docs/method.md §2."""
    text = (left + right).strip()
    return not (len(text) > 1 and text.isdigit())
