"""Decoding a program's variables from a language model, and testing their use. Source: docs/method.md §11."""
