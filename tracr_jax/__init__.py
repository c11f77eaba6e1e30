"""tracr_jax: inject a known algorithm, written in RASP, into a pretrained language model."""

__version__ = "0.1.0"
