"""`python -m tracr_jax` is `tracr-jax`."""

from tracr_jax.cli import main

main()
