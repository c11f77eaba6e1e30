"""`python -m experiments.reproduce`, see `sweep.py`."""

import sys

from tracr_jax.host import keep_pages, names_a_model

if __name__ == "__main__":
    # Before anything is imported: it starts the process again.
    keep_pages(one_arena=names_a_model(sys.argv))

    from experiments.reproduce.sweep import main

    main()
