"""How fast each part is, compared with PyTorch, Hugging Face and tracr; tables in README.md."""
