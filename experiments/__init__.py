"""Scripts that measure; each is run in the root of a checkout as `python -m experiments.NAME`."""
