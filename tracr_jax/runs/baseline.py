"""What may stand beside an injected model as its fine-tuned baseline."""

from pathlib import Path

from tracr_jax.config import RunConfig
from tracr_jax.errors import UserError


def check_baseline(theirs: RunConfig, ours: RunConfig, *, folder: str | Path) -> None:
    """Refuse a run as the baseline of another.

    Args:
      theirs: the configuration of the run that would be the baseline.
      ours: that of the injected run.
      folder: of the former, for the message.

    Raises:
      UserError: it was not fine-tuned only, or is of another task or model, or onto another program.
    """
    for name in ("task", "lm", "onto"):
        its, this = getattr(theirs, name), getattr(ours, name)
        if its != this:
            shown = f"its {name} is {its or 'none'}, the run's {this or 'none'}"
            raise UserError(f"{folder}: {shown}; compare runs of the same {name}")
    graft, alignment = theirs.part.kind == "graft", theirs.losses.alignment
    if graft or alignment != "none":
        what = "a graft" if graft else f"an injected run (alignment {alignment})"
        raise UserError(
            f"{folder}: {what}, no fine-tuning baseline; make one with `tracr-jax inject --preset finetune`"
        )
