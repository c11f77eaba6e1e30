"""Tasks: a RASP program, the text that poses it, and how the two meet. One file = one algorithm."""
