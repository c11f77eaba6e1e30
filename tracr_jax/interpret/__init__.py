"""Reading the program out of a language model. Source: docs/method.md §11."""
