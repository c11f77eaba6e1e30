"""Training: losses, the pure step, the loop, checkpoints, metrics, the device mesh."""
