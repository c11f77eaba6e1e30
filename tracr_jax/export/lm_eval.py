"""Our models in EleutherAI's lm-evaluation-harness (extra `lm-eval`): any of its tasks measures what is kept.

    import lm_eval
    from tracr_jax.export.lm_eval import TracrLM

    for original in (True, False):
        lm_eval.simple_evaluate(TracrLM("runs/…", original=original), tasks=["lambada_openai", "piqa"])

Where this module is imported, the harness also knows the class by the name "tracr-jax", with model_args such as
"pretrained=runs/…,original=True". A run's or an export's merges are its program's. Conventions (left truncation,
a BOS in front, the prefix of an empty context, rolling windows, stop strings) are those of the harness's own
Hugging Face adapter, HFLM; what it has and this adapter has not is refused (`export/lm_eval_options.py`).
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tracr_jax.data.samples import round_up
from tracr_jax.errors import UserError
from tracr_jax.lm.generate import greedy
from tracr_jax.lm.load import LoadedLM, load_lm
from tracr_jax.measure.language.scores import score_rows
from tracr_jax.runs.model import open
from tracr_jax.runs.program_files import FILE

try:
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
    from lm_eval.models.utils import (  # pyright: ignore[reportMissingImports]
        handle_stop_sequences,
        postprocess_generated_text,
    )
    from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
        get_rolling_token_windows,
        make_disjoint_window,
    )

    from tracr_jax.export.lm_eval_options import folder_ends, folder_options, generation, specials
except ImportError as e:
    raise UserError(f"the lm-evaluation-harness is missing ({e}): pip install 'tracr-jax[lm-eval]'") from e

_MAX_NEW = 256  # new tokens where a task names no limit, as in HFLM
_FIRST = 32  # new tokens of the first round; each round makes twice as many as the one before

Scored = tuple[float, bool]  # sum of log probabilities in nats; whether each token is the likeliest


def open_model(
    name: str, *, original: bool = False, program: str | None = None, dtype: str = "float32"
) -> LoadedLM:
    """A run folder, an exported folder, or whatever `load_lm` knows by name.

    Args:
      name: of the folder or the model.
      original: of a run folder or an export, the model before training, with the run's tokenizer, and with the
        settings of generation in its own folder.
      program: of a run folder with several programs, the one whose tokenizer is taken; default the newest.
      dtype: of the computation; a run folder and an export have their own.

    Raises:
      UserError: nothing of that name, or an option that it does not have.
    """
    if (Path(name) / "checkpoints").is_dir() or (Path(name) / FILE).exists():
        run = open(name, program=program)
        if original:
            return dataclasses.replace(run.original, tokenizer=run.tokenizer, name=name)
        return LoadedLM(run.model, run.params, run.tokenizer, name, name)
    if original or program:
        raise UserError(f"{name}: not a run folder; only a run has an original model and programs")
    return load_lm(name, dtype=dtype)


@register_model("tracr-jax")
class TracrLM(TemplateLM):
    """The harness's view of a model: log-likelihoods, rolling log-likelihoods, greedy generation.

    Args:
      pretrained: see `open_model`.
      original: see `open_model`.
      program: see `open_model`.
      dtype: see `open_model`.
      add_bos_token: a BOS in front of every text but one that has it already: yes, no, or (None) what
        tokenizer.json's post-processor does. A run's texts had none in training.
      batch_size: prompts that generate together; scores choose their own.
      max_batch_size: the harness names it; unused.
      device: the harness names it; JAX's own device is used.
    """

    def __init__(
        self,
        pretrained: str | Path,
        *,
        original: bool = False,
        program: str | None = None,
        dtype: str = "float32",
        add_bos_token: bool | None = None,
        batch_size: int | str | None = 32,
        max_batch_size: int | None = None,
        device: str | None = None,
    ):
        super().__init__()
        size = 32 if batch_size is None else batch_size
        if not str(size).isdigit() or int(size) < 1:
            raise UserError(f"batch_size must be a number from 1 on, got {batch_size!r}")
        self._opened = open_model(str(pretrained), original=original, program=program, dtype=dtype)
        self._batch = int(size)
        added = json.loads(self._opened.tokenizer.to_json()).get("added_tokens", [])
        self._special = {t["id"] for t in added if t.get("special")}
        self._front = specials(self._opened.tokenizer, add_bos_token)
        self._prefix = self._opened.tokenizer.decode([self.prefix_token_id])
        self._folder_options = folder_options(Path(self._opened.source))

    @property
    def eot_token_id(self) -> int:
        """Id that ends a text."""
        return self._opened.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """Id that stands before a text without context: the tokenizer's BOS, or its end of text."""
        return self._opened.tokenizer.bos_id

    @property
    def max_length(self) -> int:
        """Positions of the model."""
        return self._opened.model.max_positions

    @property
    def max_gen_toks(self) -> int:
        """New tokens where a task names no limit."""
        return min(_MAX_NEW, self.max_length - 1)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness's cache of requests."""
        return "tracr-jax"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None
    ) -> list[int]:
        """Token ids of a text, after the BOS unless the text begins with one.

        Args:
          string: the text.
          add_special_tokens: the BOS even so, or none; None is the rule.
          left_truncate_len: at most the last so many ids; None or 0 for all.
        """
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self._prefix)
        ids = (self._front if add_special_tokens else []) + self._opened.tokenizer.encode(string)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[Scored]:
        scored = self._score([(context, continuation) for _, context, continuation in requests])
        for (key, _, _), result in zip(requests, scored, strict=True):
            self.cache_hook.add_partial("loglikelihood", key, result)
        return scored

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Scored]:
        """Each continuation after its context, which loses its beginning where both are longer than the model.

        A context without a token is the prefix: of blanks alone, the harness has moved them into the continuation.
        """
        pairs = [(context or [self.prefix_token_id], continuation) for context, continuation in pairs]
        for _, continuation in pairs:
            if not 1 <= len(continuation) <= self.max_length:
                raise UserError(
                    f"a continuation of {len(continuation)} tokens cannot be scored: the model has "
                    f"{self.max_length} positions, and at least one token is needed"
                )
        # The last token is only a target, so one more than the positions fits.
        rows = [(context + continuation)[-(self.max_length + 1) :] for context, continuation in pairs]
        out = []
        for scores, (_, continuation) in zip(
            score_rows(self._opened.model, self._opened.params, rows), pairs, strict=True
        ):
            last = slice(-len(continuation), None)
            out.append((-float(np.sum(scores.nll[last], dtype=np.float64)), bool(np.all(scores.right[last]))))
        return out

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts in nats, each token once, in windows as long as the model."""
        pairs, owners = [], []
        for number, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(_arguments(request)[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            found = [make_disjoint_window(w) for w in windows]
            pairs += found
            owners += [number] * len(found)
        totals = [0.0] * len(requests)
        for number, (value, _) in zip(owners, self._score(pairs), strict=True):
            totals[number] += value
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations up to a stop string, the end of text or the task's limit, whichever comes first.

        Raises:
          UserError: a task wants samples, more new tokens than the model has positions, or an option that is not
            implemented.
        """
        end = self._opened.tokenizer.eos_token
        ends = folder_ends(self._folder_options, self.eot_token_id)
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for number, request in enumerate(requests):
            _, options = _arguments(request)
            limit, until = generation(options, default_limit=self.max_gen_toks)
            until = handle_stop_sequences(list(until), eos=end)
            groups.setdefault((limit, tuple(until)), []).append(number)
        texts = [""] * len(requests)
        for (limit, until), members in groups.items():
            room = self.max_length - limit
            if room < 1 or limit < 1:
                raise UserError(
                    f"generate_until: {limit} new tokens and a prompt do not fit {self.max_length} positions; set "
                    "max_gen_toks in the task's generation_kwargs"
                )
            prompts = [
                self.tok_encode(_arguments(requests[n])[0])[-room:] or [self.prefix_token_id] for n in members
            ]
            order = sorted(range(len(members)), key=lambda k: -len(prompts[k]))
            for start in range(0, len(order), self._batch):
                chosen = order[start : start + self._batch]
                made = self._generate([prompts[k] for k in chosen], limit=limit, until=until, ends=ends)
                for k, text in zip(chosen, made, strict=True):
                    texts[members[k]] = text
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _generate(
        self, prompts: list[list[int]], *, limit: int, until: Sequence[str], ends: frozenset[int]
    ) -> list[str]:
        """Texts after the prompts, made in rounds, so that few tokens are made in vain after a stop string."""
        made: list[list[int]] = [[] for _ in prompts]
        texts = [""] * len(prompts)
        going, count = list(range(len(prompts))), min(_FIRST, limit)
        while going:
            rows = [prompts[k] + made[k] for k in going]
            width = round_up(max(map(len, rows)), most=self.max_length - count + 1)
            ids = np.full((len(rows), width), self.eot_token_id, np.int32)
            for row, tokens in enumerate(rows):
                ids[row, : len(tokens)] = tokens
            lengths = jnp.asarray([len(r) for r in rows])
            new = greedy(self._opened.model, self._opened.params, jnp.asarray(ids), lengths, num_tokens=count)
            stopped = set()
            for k, tokens in zip(going, np.asarray(new).tolist(), strict=True):
                made[k] += tokens
                texts[k], done = self._cut(made[k], until, ends)
                if done or len(made[k]) >= limit:
                    stopped.add(k)
            going = [k for k in going if k not in stopped]
            # All of `going` have made as many tokens.
            count = min(2 * count, limit - len(made[going[0]])) if going else 0
        return texts

    def _cut(self, tokens: list[int], until: Sequence[str], ends: frozenset[int]) -> tuple[str, bool]:
        """The text before the first stop string or end of text, and whether there was one.

        An end of text that is no special token is part of the text, as for HFLM.
        """
        stop = next((at for at, t in enumerate(tokens, 1) if t in ends), None)
        kept = tokens[:stop]
        whole = self._opened.tokenizer.decode([t for t in kept if t not in self._special])
        text = postprocess_generated_text(whole, list(until), None)
        return text, stop is not None or text != whole


def _arguments(request: Instance) -> tuple[Any, ...]:
    """What a request holds; the harness's own annotation says an empty tuple."""
    return tuple(request.args)
