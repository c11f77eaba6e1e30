"""Ready-made configurations: by method, task and language model. Source: docs/method.md §5, docs/differences.md.

"paper" is the original as coded, "paper-fixed" the same with its faults mended. The others are ours, at the
sizes of small models: "variable" is the default method, "exchange" trains reserved directions on states that mix
the variables of several rows, "cosine" is the paper's alignment at the same sizes and rates, "finetune" the
baseline without alignment and without the hook, "graft" the compiled program beside the frozen model. The bundled
model's differ by task.
"""

import dataclasses
from typing import Literal, get_args

from tracr_jax.config import (
    DataConfig,
    ExchangeConfig,
    Fidelity,
    LayerMap,
    LossConfig,
    OptimConfig,
    RunConfig,
    require,
)
from tracr_jax.errors import UserError
from tracr_jax.names import BUNDLED, RANDOM, SMOLLM2
from tracr_jax.trained import trained_part

Method = Literal["exchange", "variable", "cosine", "finetune", "graft", "paper", "paper-fixed"]
METHODS: tuple[str, ...] = get_args(Method)

# Lengths that hold the longest item, a mask of label tokens, a teacher sharp enough for its counts, `=` mapped.
# gpt2-large hosts all three teachers (docs/differences.md A2).
PAPER_FIXED = RunConfig(
    lm="openai-community/gpt2-large",
    steps=20_000,
    seed=42,
    losses=LossConfig(alignment="cosine", alignment_weight=1.0, align_padding=True, result_span="rows"),
    optim=OptimConfig(
        learning_rate=1e-6, adapter_learning_rate=1e-4, schedule="constant", warmup_steps=0, clip_norm=0.0
    ),
    data=DataConfig(batch=2, text_batch=2, text_length=30),
    checkpoint_every=1000,
)

PAPER = dataclasses.replace(
    PAPER_FIXED,
    fidelity=Fidelity(as_coded=True, as_coded_mask=True, as_coded_length=True),
)


def preset(
    method: str = "variable", *, task: str = "dyck", lm: str | None = None, full: bool = False
) -> RunConfig:
    """The starting point of a run; `lm` None takes the preset's own model.

    full: as experiments/reproduce runs it, where that is longer than the main job's five minutes.

    Raises:
      UserError: no preset has that name.
    """
    require(method in METHODS, f"unknown preset {method!r}; presets: {', '.join(METHODS)}")
    if method in ("paper", "paper-fixed"):
        config = PAPER if method == "paper" else PAPER_FIXED
        return dataclasses.replace(config, task=task, lm=lm or config.lm)
    lm = lm or BUNDLED
    shape = lm.removeprefix(RANDOM)
    if shape == BUNDLED:
        ours = (TINY | TINY_FULL if full else TINY).get(task, TINY_ANY)
    else:
        ours = _SMALL_MODELS.get(shape, RunConfig())
        ours = _SMALL_MODELS_FULL.get((shape, task), ours) if full else ours
    config = dataclasses.replace(ours, task=task, lm=lm)
    if method == "cosine":
        # The paper's alignment and hook; what the language may lose is priced as in our other runs.
        kept = {name: getattr(config.losses, name) for name in ("retention_weight", "retention_growth")}
        losses = dataclasses.replace(PAPER_FIXED.losses, **kept)
        return dataclasses.replace(config, losses=losses)
    if method == "exchange":
        return exchange_preset(config)
    if method == "graft":
        return graft_preset(config)
    return finetune_preset(config) if method == "finetune" else config


def check_train(method: str, train: str) -> None:
    """Refuse what is another method than the preset's name says.

    Raises:
      UserError: a graft trains its map alone, and the model beside it stays as it is.
    """
    if method == "graft" and trained_part(train).kind != "graft":
        raise UserError(
            f"preset graft with train {train!r}: a graft leaves the model as it is; leave out one of the two"
        )


# Options of `LossConfig` that a run of this alignment does not read.
_UNREAD = {
    "none": ("alignment_weight", "variable_weights", "result_weight", "answer_alignment", "align_padding"),
    "exchange": ("alignment_weight", "variable_weights", "result_weight", "align_padding", "result_span"),
}


def check_read(config: RunConfig, start: RunConfig) -> None:
    """Refuse options that were changed from the preset `start`, and that the run does not read.

    Raises:
      UserError: an option of another alignment, with its name.
    """
    alignment = config.losses.alignment
    names = [f"--{n}" for n in _UNREAD.get(alignment, ()) if getattr(config.losses, n) != getattr(start.losses, n)]
    if alignment != "exchange":
        own = vars(config.exchange)
        names += [f"--{n}" for n in own if own[n] != getattr(start.exchange, n)]
    if names:
        said, those = ", ".join(names).replace("_", "-"), "it" if len(names) == 1 else "them"
        raise UserError(
            f"{said}: not read with alignment {alignment!r}; leave {those} out, or give another --preset"
        )


def exchange_preset(config: RunConfig) -> RunConfig:
    """The recipe of exchange training at the batch size of another run; every row is supervised, but in SmolLM2.

    For dyck and count in the bundled model it is the run of experiments/main_job_tiny_exchange.json and of
    experiments/main_job_tiny_count_exchange_varied.json, for int_sum that of
    experiments/main_job_tiny_int_sum_exchange_5000.json, which was resumed at step 2,200 (113 minutes in all; 81 %
    of the test strings). In SmolLM2 it is what learnt fastest, with most rows only aligned, through the lower
    blocks alone. Its 1,000 steps are too few, fine-tuning on as many strings answers better
    (experiments/diary.md); `tracr-jax resume RUN --steps 2600` goes on.
    """
    losses = dataclasses.replace(config.losses, alignment="exchange", hook_offset=-1, answer_alignment=5.0)
    data = dataclasses.replace(config.data, domain_supervised=config.data.domain_items, answer_end=False)
    train, outside = "all", 0.0
    of = (config.lm.removeprefix(RANDOM), config.task)
    sigma = _SIGMAS.get(of[0], 1.0)
    if of[0] == BUNDLED and config.task in _STEPS:
        train, outside = "program", 1.0  # elsewhere they were not tried
        all_read = config.task == "int_sum"  # whose prompt has no word that the program does not read
        items = 16 if all_read else 8
        rows = {"batch": items, "domain_items": items, "domain_supervised": items, "text_batch": 3}
        # Without other words, what is read is the one wording that training has; count's high counts are rare.
        data = dataclasses.replace(
            data, **rows, other_words=0.0 if all_read else 0.5, varied=config.task == "count"
        )
        losses = dataclasses.replace(losses, retention_weight=0.04)
        config = dataclasses.replace(config, steps=_STEPS[config.task], checkpoint_every=50)
    if of == (SMOLLM2, "dyck"):
        train, outside = "blocks:1-18", 1.0
        rows = {"batch": 2, "domain_items": 22, "domain_supervised": 2, "text_batch": 2}
        data = dataclasses.replace(data, **rows, other_words=0.5)
        losses = dataclasses.replace(losses, retention_weight=0.04, retention_growth=8.0)
        optim = dataclasses.replace(config.optim, kind="muon")
        config = dataclasses.replace(config, steps=1000, checkpoint_every=50, optim=optim)
    layers = _LAYERS.get(of, LayerMap(2, 1))
    # Exact values want a low rate and a long anneal: at 4e-3 and above, Muon does not converge.
    rates = {"learning_rate": 1.5e-3, "adapter_learning_rate": 3e-3, "embedding_rate": 1.0}
    rates |= {"final_rate": 0.02, "muon_iterations": 3}
    return dataclasses.replace(
        config,
        train=train,
        losses=losses,
        data=data,
        optim=dataclasses.replace(config.optim, **rates) if config.optim.kind == "muon" else config.optim,
        exchange=ExchangeConfig(
            directions=12 if config.task == "count" else 8,  # its numbers go up to 59
            sigma=sigma,
            hand_on=True,
            merge_values=True,
            outside_share=outside,
        ),
        layer_offset=layers.offset,
        layer_stride=layers.stride,
        layer_blocks=layers.blocks,
    )


# dyck's first layer makes six counts, for which one block has too few attention heads; count's first two make a
# count of up to 40 words and its digits; int_sum's fourth looks four things up, its fifth adds digits, and its 21
# layers leave the 24 blocks no offset. Other layers need one block (experiments/diary.md).
_LAYERS = {
    (BUNDLED, "dyck"): LayerMap(2, 1, (7,)),
    (BUNDLED, "count"): LayerMap(2, 1, (7, 2, 1, 1, 1, 1, 1, 1)),
    (BUNDLED, "int_sum"): LayerMap(0, 1, (1, 1, 1, 2, 2)),
    (SMOLLM2, "dyck"): LayerMap(4, 1, (7,)),
}
# Exactness takes long: after 1,300 steps of dyck one right "yes" in six breaks with what no variable holds.
_STEPS = {"dyck": 1800, "count": 2800, "int_sum": 5000}
_SIGMAS = {SMOLLM2: 3.0}  # its states are two to four times as large as the bundled model's


def finetune_preset(config: RunConfig) -> RunConfig:
    """The fine-tuning baseline of docs/method.md §4.5: the same run without alignment and without the hook.

    Where the run has items of the program's whole domain, the baseline gets the program's answer to each of them
    as a label: it never has fewer labels than the injected model.
    """
    losses = dataclasses.replace(config.losses, alignment="none", hook=False)
    data = dataclasses.replace(config.data, domain_supervised=config.data.domain_items)
    return dataclasses.replace(config, losses=losses, data=data)


def graft_preset(config: RunConfig) -> RunConfig:
    """The graft of `tracr_jax.runs.graft` on the items of the baseline: what is trained is one linear map.

    The program says nothing after its answer, so that no end of text can be learnt there. The map is in units of
    the model's states, so that one rate fits all models. dyck's two answers are right after 25 steps, the nine of
    first_position in 92 % after 150 and in 100 % after 450.
    """
    config = finetune_preset(config)
    return dataclasses.replace(
        config,
        train="graft:result",
        steps=min(config.steps, 150 if config.task == "dyck" else 450),
        data=dataclasses.replace(config.data, answer_end=False),
        optim=dataclasses.replace(config.optim, learning_rate=2e-2),
    )


# Muon needs some 2.5 times fewer steps than AdamW here; experiments/diary.md records the search.
_TINY_OPTIM = OptimConfig(kind="muon", learning_rate=6e-3, adapter_learning_rate=2e-2, final_rate=0.02)
# For few rows and many steps: Muon's iterations are a quarter of such a step, and three do as well as five.
_MAIN_OPTIM = dataclasses.replace(_TINY_OPTIM, muon_iterations=3, learning_rate=8e-3, embedding_rate=0.25)
# The hook acts on the aligned state: with one block between, that block writes the answer from the complement.
# The span of the result's rows, as all of these were measured.
_MEASURED = LossConfig(result_span="rows")
_TINY_LOSSES = dataclasses.replace(
    _MEASURED, hook_offset=-1, alignment_weight=10.0, answer_alignment=5.0, retention_weight=0.3
)

# The bundled model and a program that no search was made for: the main job's recipe, which names no variable and
# spans the contrasts.
TINY_ANY = RunConfig(
    train="program",
    layer_offset=1,
    steps=700,
    losses=dataclasses.replace(
        _TINY_LOSSES,
        result_span="contrasts",
        result_weight=4.0,
        retention_weight=0.15,
        retention_growth=8.0,
    ),
    optim=_MAIN_OPTIM,
    data=DataConfig(batch=8, domain_items=8, domain_supervised=8, text_batch=3),
)

# The bundled model, by task.
TINY = {
    "dyck": RunConfig(
        # Half of the blocks stay: a step costs less, and a seventh as much of the language is lost
        # (experiments/diary.md).
        train="program",
        layer_offset=1,
        steps=400,
        eval_items=100,
        losses=dataclasses.replace(
            _TINY_LOSSES,
            retention_weight=0.1,
            retention_growth=8.0,
            result_weight=4.0,
            variable_weights=(("unfiltered_result", 2.0),),
        ),
        # Few rows and many steps: five minutes are then used best (experiments/diary.md). All rows are asked: rows
        # only aligned are a pass of their own, which here costs as much as asking them and compiles longer.
        optim=_MAIN_OPTIM,
        data=DataConfig(batch=6, domain_items=6, domain_supervised=6, text_batch=3),
    ),
    # Late variables are held by few layers and weigh little in a mean over all: the sums and what is made of them.
    "int_sum": RunConfig(
        steps=800,
        losses=dataclasses.replace(
            _TINY_LOSSES,
            hook_offset=0,  # as it was measured; -1 has not been tried here
            retention_growth=8.0,
            variable_weights=(("final_", 4.0), ("operands_", 3.0), ("carried_", 3.0), ("result_to", 2.0)),
        ),
        optim=_TINY_OPTIM,
        data=DataConfig(batch=32, domain_items=64, domain_supervised=32, text_batch=8),
    ),
    "count": RunConfig(
        steps=600,
        losses=dataclasses.replace(
            _TINY_LOSSES,
            retention_growth=8.0,
            variable_weights=(("final_", 4.0), ("yes_count", 3.0), ("result_to", 2.0)),
        ),
        optim=_TINY_OPTIM,
        data=DataConfig(batch=8, domain_items=16, domain_supervised=6, text_batch=6),
    ),
}

# The sweep's longer form of the main job.
TINY_FULL = {
    "dyck": dataclasses.replace(
        TINY["dyck"],
        train="all",  # this and the layers as it was measured
        layer_offset=0,
        steps=500,
        eval_items=300,
        losses=dataclasses.replace(
            _TINY_LOSSES,
            result_weight=4.0,
            # What the program looks up last in a long string is rare: most are never overdrawn.
            variable_weights=(
                *TINY["dyck"].losses.variable_weights,
                *((f"{pair}_negative", 3.0) for pair in ("()", "{}", "[]")),
            ),
            retention_growth=16.0,
        ),
        optim=_TINY_OPTIM,
        data=DataConfig(batch=16, domain_items=32, domain_supervised=8, text_batch=12),
    )
}

# A well-trained model of 135 M parameters wants gentler steps than a tiny one.
_SMALL_MODELS = {
    SMOLLM2: RunConfig(
        eval_items=100,  # 300 would take longer than the training on two cores
        checkpoint_every=20,
        losses=_MEASURED,
        optim=OptimConfig(learning_rate=1e-4, adapter_learning_rate=1e-3),
        data=DataConfig(batch=8, text_batch=4, text_length=32),
    ),
}

# Few rows, for two cores; the rest is what the bundled model's search has shown: hook on the aligned state, domain
# items, more weight on the answer and the result.
_SMALL_MODELS_FULL = {
    (SMOLLM2, "dyck"): dataclasses.replace(
        _SMALL_MODELS[SMOLLM2],
        steps=600,
        checkpoint_every=100,
        losses=dataclasses.replace(TINY["dyck"].losses, retention_weight=0.3),
        optim=OptimConfig(learning_rate=3e-4, adapter_learning_rate=3e-3, final_rate=0.02),
        data=DataConfig(batch=3, domain_items=3, domain_supervised=3, text_batch=2, text_length=32),
    )
}
