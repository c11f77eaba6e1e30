"""A run as a Hugging Face folder that other tools load: weights, tokenizer, adapter, labels, card."""

from tracr_jax.export.folder import export_run

__all__ = ["export_run"]
