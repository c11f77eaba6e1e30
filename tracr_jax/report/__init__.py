"""One page that shows a run: JSON files in, one self-contained HTML file and PNG figures out. No model code."""

from tracr_jax.report.page import write_report
from tracr_jax.report.png import draw_picture

__all__ = ["draw_picture", "write_report"]
