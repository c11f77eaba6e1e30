"""The teacher: a RASP program compiled to a small transformer, its residual stream, and its oracle."""

from tracr_jax.teacher.compile import Teacher, Variable, compile_program, default_exactness
from tracr_jax.teacher.forward import make_forward
from tracr_jax.teacher.oracle import evaluate_program
from tracr_jax.teacher.store import cached_compile, load_teacher, save_teacher
from tracr_jax.teacher.verify import VerifyReport, verify

__all__ = [
    "Teacher",
    "Variable",
    "VerifyReport",
    "cached_compile",
    "compile_program",
    "default_exactness",
    "evaluate_program",
    "load_teacher",
    "make_forward",
    "save_teacher",
    "verify",
]
