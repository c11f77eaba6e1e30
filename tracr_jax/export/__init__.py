"""A run as a Hugging Face folder that other tools load: weights, tokenizer, adapter, labels, card."""

from tracr_jax.export.folder import Exported, export_run, open_export

__all__ = ["Exported", "export_run", "open_export"]
