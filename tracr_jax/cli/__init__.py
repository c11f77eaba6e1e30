"""The command line: `tracr-jax inject TASK`, `tracr-jax report RUN`, … Each command is a call of the library."""

import sys
from collections.abc import Sequence

from rich.console import Console

from tracr_jax.cli.commands import COMMANDS
from tracr_jax.errors import UserError
from tracr_jax.host import keep_pages, names_a_model

_HELP = """tracr-jax: inject a known algorithm, written in RASP, into a pretrained language model

  tracr-jax inject [TASK] [options]   train, evaluate and leave a run folder
                                      TASK: dyck (default), int_sum, count, or path/to/file.py:NAME
                                      --onto RUN: into the model of a finished run, beside the programs it holds
  tracr-jax check [TASK] [--lm NAME]  before training: is the network the program, does it fit, what is asked
  tracr-jax evaluate RUN [options]    score a finished run again, on samples or on whole sets
  tracr-jax decode RUN ["text"]       the program's variables at every token of a text, read from the model
  tracr-jax interpret RUN [options]   are its variables in the model, and used? decoding, noise, swaps
  tracr-jax retention RUN [options]   how much of the language is kept: LAMBADA, perplexities, KL, SST-2, MRPC
  tracr-jax report RUN [RUN…]         one page that opens from disk, from what the runs' folders hold, and figures
  tracr-jax export RUN DIR            a Hugging Face folder: weights, tokenizer, adapter, labels and a model card
  tracr-jax COMMAND --help            every option of a command
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a UserError is one line on standard error and exit status 2."""
    if argv is None:
        keep_pages(one_arena=names_a_model(sys.argv))
    argv = list(sys.argv[1:] if argv is None else argv)
    console = Console(stderr=True, highlight=False)
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(_HELP)
        elif argv[0] not in COMMANDS:
            raise UserError(f"unknown command {argv[0]!r}; commands: {', '.join(COMMANDS)}")
        else:
            COMMANDS[argv[0]](argv[1:])
    except UserError as e:
        console.print("error:", style="bold red", end=" ")
        console.print(" ".join(str(e).split()), markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        # Only a training run leaves something to go on from.
        advice = "; continue with the same command and --resume" if argv[:1] == ["inject"] else ""
        console.print(f"interrupted{advice}", style="yellow")
        sys.exit(130)
