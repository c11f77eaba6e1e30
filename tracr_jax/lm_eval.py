"""The name that `tracr_jax.export.lm_eval` had before; until 0.2."""

from tracr_jax.export.lm_eval import TracrLM

__all__ = ["TracrLM"]
