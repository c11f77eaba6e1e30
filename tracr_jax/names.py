"""Names on which several modules must agree: of language models, see `tracr_jax.lm.load`, and of a file."""

BUNDLED = "tiny"
SMOLLM2 = "smollm2-135m-instruct"
RANDOM = "random:"
"""Before the name of a model: its architecture with untrained weights."""

SWEEP = "sweep.json"
"""The result of `tracr_jax.sweep`, which the report draws."""
