"""One page that shows a run: JSON files in, one self-contained HTML file and PNG figures out. No model code."""
