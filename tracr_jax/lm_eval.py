"""The name that `tracr_jax.export.lm_eval` had before 0.1, for one release."""

from tracr_jax.export.lm_eval import TracrLM

__all__ = ["TracrLM"]
