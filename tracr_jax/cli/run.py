"""The words of a command line run its command; what goes wrong is one line."""

import difflib
import os
import shutil
import signal
import sys
import textwrap
import warnings
from collections.abc import Sequence

from rich.console import Console

from tracr_jax import __version__
from tracr_jax.cli.commands import COMMANDS
from tracr_jax.errors import UserError
from tracr_jax.host import keep_compiled

_COLUMN = 38  # where the second column of the help begins
_HELP = """tracr-jax: inject a known algorithm, written in RASP, into a pretrained language model

  tracr-jax inject [TASK] [options]   train, evaluate and leave a run folder
                                      TASK: dyck (default), another of `tracr-jax tasks`, or path/to/file.py:NAME
                                      --onto RUN: into the model of a finished run, in addition to its programs
  tracr-jax resume RUN                continue a run that was stopped, with the options it started with
  tracr-jax tasks [FOLDER]            the built-in programs, or those of a folder's files: sizes, an example each
  tracr-jax check [TASK] [--lm NAME]  before training: verify the compiled network, the fit and the prompts
  tracr-jax evaluate RUN [options]    score a finished run again, on samples or on whole sets
  tracr-jax decode RUN ["text"]       the program's variables at every token of a text, read from the model
  tracr-jax explore RUN [options]     a local page: type a prompt, see its variables, set one, see what follows
  tracr-jax interpret RUN [options]   are its variables in the model, and used? decoding, noise, swaps
  tracr-jax controls RUN [options]    the same of models that do not run the program: untouched, random, fine-tuned
  tracr-jax retention RUN [options]   how much of the language is kept: LAMBADA, perplexities, KL, SST-2, MRPC
  tracr-jax sweep TASK [options]      methods × weights of the language term × seeds: answers against language lost
  tracr-jax compare RUN RUN           which answers more of the same items, with intervals and p values
  tracr-jax report RUN [RUN…]         one self-contained HTML page made from the run folders, and figures
  tracr-jax export RUN DIR            a Hugging Face folder: weights, tokenizer, adapter, labels and a model card;
                                      --as interpbench: with ground truth for benchmarks; --activations
  tracr-jax apply PROGRAM MODEL DIR   put a program, trained with --train lora, on the model it was trained on
  tracr-jax remove MODEL DIR          take it off again: the model as it was, bit for bit
  tracr-jax COMMAND --help            the options of a command; inject --help-all: every one
  tracr-jax COMMAND … --no-cache      compile everything anew, without the cache of compiled programs
  tracr-jax --version
"""


def run(argv: Sequence[str], *, helps: bool) -> None:
    """Run a command; a UserError is one line on standard error and exit status 2.

    Args:
      argv: the words after `tracr-jax`.
      helps: whether they ask for help, for which nothing is started.
    """
    argv = list(argv)
    console = Console(stderr=True, highlight=False)
    warnings.showwarning = lambda message, category, *_, **__: _line(console, "warning:", "yellow", str(message))
    try:
        if not argv or argv[0] in ("-h", "--help", "--help-all", "help"):
            print(_fitted(_HELP, shutil.get_terminal_size().columns))
        elif argv[0] == "--version":
            print(f"tracr-jax {__version__}")
        elif argv[0] not in COMMANDS:
            near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"unknown command {argv[0]!r}; {meant}commands: {', '.join(COMMANDS)}")
        else:
            if "--no-cache" in argv:
                argv.remove("--no-cache")
            elif not helps:
                keep_compiled()
            COMMANDS[argv[0]](argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # of `tracr-jax … | head`: nobody reads on, and nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except UserError as e:
        _line(console, "error:", "bold red", str(e))
        sys.exit(2)
    except KeyboardInterrupt as e:
        console.print(str(e) or "interrupted", style="yellow", markup=False, soft_wrap=True)
        sys.exit(130)


def _fitted(text: str, width: int) -> str:
    """Two columns where they fit, else what a command does below it, in lines of whole words."""
    lines = text.splitlines()
    if max(map(len, lines)) <= width:
        return text
    out = []
    for line in lines:
        left, right = line[:_COLUMN].rstrip(), line[_COLUMN:]
        if not line.startswith("  "):
            left, right = "", line
        out += [left] if left else []
        indent = "      " if line.startswith("  ") else ""
        out += textwrap.wrap(right, width, initial_indent=indent, subsequent_indent=indent) or (
            [] if left else [""]
        )
    return "\n".join([*out, ""])


def _line(console: Console, word: str, style: str, text: str) -> None:
    console.print(word, style=style, end=" ")
    console.print(" ".join(text.split()), markup=False, soft_wrap=True)
