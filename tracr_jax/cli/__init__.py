"""The command line: `tracr-jax inject TASK`, `tracr-jax report RUN`, … Each command is a call of the library."""

import sys
from collections.abc import Sequence

from tracr_jax.host import keep_pages, names_a_model, stay_small


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a UserError is one line on standard error and exit status 2."""
    from_shell = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    helps = not argv or any(a in ("-h", "--help", "--help-all", "--version") for a in argv)
    if from_shell:
        if not helps:
            keep_pages(one_arena=names_a_model(sys.argv))
        stay_small()
    from tracr_jax.cli.run import run  # not before: the process may just have started again

    run(argv, helps=helps)
