"""Reading the program out of a language model. Source: method.md 11."""
