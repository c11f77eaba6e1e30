"""How much of the language is kept: LAMBADA, perplexities, KL to the original, SST-2, MRPC. Source:
docs/method.md §10.

scores.py is the computation, texts.py and glue.py the sets, suite.py the table. The same (filtered) tokenizer
serves every model that is compared.
"""

from tracr_jax.measure.language.scores import mean_kl, perplexity

__all__ = ["mean_kl", "perplexity"]
