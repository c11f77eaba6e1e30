"""The teacher: a RASP program compiled to a small transformer, its residual stream, and its oracle."""
