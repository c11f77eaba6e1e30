"""Parts of `experiments/pretrain_tiny.py`: text, recipe and controls of the bundled language model."""
