"""All tasks x methods x seeds on one language model, see `sweep.py`."""
