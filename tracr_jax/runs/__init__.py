"""A run folder: what is built for it, and the model read back from it."""
