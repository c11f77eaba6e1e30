"""Pieces of RASP programs that several tests use."""

from tracr.rasp import rasp


def width(letter):
    """How many of the tokens so far are the letter."""
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == letter))
