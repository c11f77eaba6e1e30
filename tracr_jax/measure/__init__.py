"""Scores of a trained model: its answers, its variables, its language."""
