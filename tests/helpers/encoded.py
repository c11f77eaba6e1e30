"""One item as `Batches` encodes it."""

from tracr_jax.config import OURS, Fidelity
from tracr_jax.data.bridge import Bridge
from tracr_jax.data.encode import place
from tracr_jax.tasks.base import Item


def encode_item(item: Item, bridge: Bridge, *, length: int, answer_end: bool = True, fidelity: Fidelity = OURS):
    prompt, label = bridge.split(item)
    eos = bridge.tokenizer.eos_id
    return place(item, prompt, label, length=length, eos=eos, answer_end=answer_end, fidelity=fidelity)
