"""Ready-made configurations: by method, task and language model. Source: method.md 5, findings.md.

"paper" is the original as coded, "paper-fixed" the same with its faults mended. The others are ours, at the
sizes of small models: "variable" is the default method, "cosine" the paper's losses at the same sizes and rates,
"finetune" the baseline without alignment and without the hook.
"""

import dataclasses

from tracr_jax.config import DataConfig, LossConfig, OptimConfig, RunConfig

METHODS = ("variable", "cosine", "finetune", "paper", "paper-fixed")

# Lengths that hold the longest item, a mask of label tokens, a teacher sharp enough for its counts, `=` mapped.
# gpt2-large hosts all three teachers (findings.md A2).
PAPER_FIXED = RunConfig(
    lm="openai-community/gpt2-large",
    steps=20_000,
    seed=42,
    losses=LossConfig(alignment="cosine", alignment_weight=1.0, align_padding=True),
    optim=OptimConfig(
        learning_rate=1e-6, adapter_learning_rate=1e-4, schedule="constant", warmup_steps=0, clip_norm=0.0
    ),
    data=DataConfig(batch=2, text_batch=2, text_length=30),
    checkpoint_every=1000,
)

PAPER = dataclasses.replace(
    PAPER_FIXED,
    as_coded=True,
    data=dataclasses.replace(PAPER_FIXED.data, as_coded_mask=True, as_coded_length=True),
)


def preset(method: str = "variable", *, task: str = "dyck", lm: str | None = None) -> RunConfig:
    """The starting point of a run; `lm` None takes the preset's own model."""
    if method in ("paper", "paper-fixed"):
        config = PAPER if method == "paper" else PAPER_FIXED
        return dataclasses.replace(config, task=task, lm=lm or config.lm)
    config = _SMALL_MODELS.get(lm or "tiny", RunConfig())
    config = dataclasses.replace(config, task=task, lm=lm or "tiny")
    if method == "cosine":
        return dataclasses.replace(config, losses=PAPER_FIXED.losses)
    return baseline(config) if method == "finetune" else config


def baseline(config: RunConfig) -> RunConfig:
    """The fine-tuning baseline of method.md 4.5: the same run without alignment and without the hook."""
    losses = dataclasses.replace(config.losses, alignment="none", hook=False, clean_weight=0.0)
    data = dataclasses.replace(config.data, free_supervised=config.data.free_items)
    return dataclasses.replace(config, losses=losses, data=data)


# A well-trained model of 135 M parameters wants gentler steps than a tiny one.
_SMALL_MODELS = {
    "smollm2-135m-instruct": RunConfig(
        eval_items=100,  # 300 would take longer than the training on two cores
        checkpoint_every=20,
        optim=OptimConfig(learning_rate=1e-4, adapter_learning_rate=1e-3),
        data=DataConfig(batch=8, text_batch=4, text_length=32),
    ),
}
