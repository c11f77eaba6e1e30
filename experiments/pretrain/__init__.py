"""`python -m experiments.pretrain`: text, recipe and controls of the bundled language model."""
