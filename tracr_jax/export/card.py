"""The model card of an exported run: what it is, the run's measured numbers, and how to decode its variables."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tracr_jax import __version__
from tracr_jax.lm.load import ALIASES
from tracr_jax.names import SMOLLM2
from tracr_jax.report.words import tenths
from tracr_jax.runs.program import Program
from tracr_jax.runs.program_files import is_hub_id

_HUB = {**ALIASES, SMOLLM2: "HuggingFaceTB/SmolLM2-135M-Instruct"}

# Run by tests/export/folder_test.py: the first block gives `hidden`, the second reads it.
_HIDDEN = """\
import numpy as np, torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

# Not AutoTokenizer: of some models (Qwen2) transformers 5 makes the splitting anew, and other ids.
tokenizer, model = PreTrainedTokenizerFast.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".")
inputs = tokenizer({prompt}, return_tensors="pt")
with torch.no_grad():
    states = model(**inputs, output_hidden_states=True).hidden_states
hidden = np.stack([h[0].numpy() for h in states])  # [N + 1, S, d]
"""
_DECODE = """\
import json, pathlib
from safetensors.numpy import load_file

adapter = load_file("adapter.safetensors")
program = json.loads(pathlib.Path("program.json").read_text(encoding="utf-8"))
decoded = {{}}
for v in program["variables"]:
    if not v["layers"]:  # the adapter does not read it
        continue
    layer = v["layers"][-1]  # any of these, 0..L
    reading = hidden[program["states"][layer]] @ adapter["weight"].T + adapter["bias"]  # [S, D]
    coordinates = reading[:, v["directions"]]
    decoded[v["name"]] = [v["values"][k] for k in coordinates.argmax(-1)] if v["values"] else coordinates[:, 0]
print(decoded[{result}])  # the program's result at each token
"""
_ANSWER = """\
out = model.generate(**inputs, max_new_tokens={count})  # greedy, as it was measured
print(tokenizer.decode(out[0, inputs.input_ids.shape[1] :]))  # should be {answer}
"""


_GRAFT = """\
import jax.numpy as jnp
import tracr_jax
from tracr_jax.lm.generate import greedy

run = tracr_jax.open(".")
ids = run.tokenizer.encode({prompt})
out = greedy(run.model, run.params, jnp.array([ids]), jnp.array([len(ids)]), num_tokens={count})
print(run.tokenizer.decode(out[0].tolist()))  # should be {answer}
"""


def model_card(program: Program, evaluation: Mapping[str, Any], *, content: dict[str, Any]) -> str:
    """The README.md of an exported folder, in Markdown with Hugging Face's header.

    Args:
      program: what was injected.
      evaluation: the content of evaluation.json.
      content: the content of program.json.
    """
    item, untouched = program.examples[0], program.grafted or program.part.kind == "adapter"
    lm = content["run"]["lm"]
    answer = program.bridge.separator + item.label
    prompt = json.dumps(item.prompt, ensure_ascii=False)
    said = {"count": len(program.bridge.split(item)[1]), "answer": json.dumps(answer, ensure_ascii=False)}
    ask = _HIDDEN.format(prompt=prompt) + _ANSWER.format(**said)
    if program.grafted:
        ask = _GRAFT.format(prompt=prompt, **said)
    parts = [
        _header(program),
        f"# {program.name} in {lm}\n",
        _what(program, content),
        "## Measured\n",
        _answers(evaluation),
        *([_programs(evaluation["programs"])] if "programs" in evaluation else []),
        _language(evaluation),
        *([_variables(evaluation, content)] if content["aligned"] else []),
        "## Ask\n" if program.grafted else "## Ask, and read its variables\n",
        "Run in this folder; the prompt is the first item of the test set.\n",
        _python(ask),
        *([] if program.grafted else [_reading(content)]),
        "## Licence\n",
        f"The weights are {'a' if untouched else 'a changed'} copy of those of `{lm}`, whose licence goes "
        "with them.",
    ]
    return "\n".join(parts) + "\n"


def _header(program: Program) -> str:
    name = program.config.lm
    base = _HUB.get(name, name if is_hub_id(name) else None)
    lines = ["library_name: transformers", "pipeline_tag: text-generation", "tags:", "- tracr-jax", "- rasp"]
    return "\n".join(["---", *lines, *([f"base_model: {base}"] if base else []), "---"])


def _what(program: Program, content: dict[str, Any]) -> str:
    c, lm, task = program.config, content["run"]["lm"], program.name
    if program.grafted:
        return (
            f"`{lm}` with the program *{task}*, written in RASP and compiled by tracr, beside it: a graft by "
            f"tracr_jax {__version__}, {c.steps:,} steps, seed {c.seed}. What was trained is one linear map from "
            "the program to the model's states (`graft.safetensors`, `teacher.npz`). **A Hugging Face folder has "
            "no place for a program that runs beside the model: `transformers` and other tools load the untouched "
            "model from this folder, and only `tracr_jax.open` puts the program back.**\n"
        )
    if program.part.kind == "adapter":
        trained = (
            f"`{lm}` with an affine map that reads the variables of the program *{task}*, written in RASP and "
            f"compiled by tracr: fitted by tracr_jax {__version__}, {c.steps:,} steps, {c.losses.alignment} "
            f"alignment, seed {c.seed}. No weight of the model was changed, and it does not run the program."
        )
    elif content["aligned"]:
        trained = (
            f"The program *{task}*, written in RASP and compiled by tracr, was injected into `{lm}` by tracr_jax "
            f"{__version__} (Tracr-Injection, arXiv 2505.10719): {c.steps:,} steps, {c.losses.alignment} "
            f"alignment, seed {c.seed}."
        )
    else:
        trained = (
            f"`{lm}`, fine-tuned by tracr_jax {__version__} on the answers of *{task}* without its program: a "
            f"baseline. {c.steps:,} steps, seed {c.seed}."
        )
    return (
        f"{trained} The architecture is unchanged, so any tool for the original model loads it. The tokenizer is "
        "the original's without the merges that would hide the task's symbols; all ids mean what they did. "
        "Trained on prompts of the task's own form: ask in that form.\n"
    )


def _answers(evaluation: Mapping[str, Any]) -> str:
    sets = evaluation["sets"]
    names = list(next(iter(sets.values()))["baselines"])
    rows = []
    for name, s in sets.items():
        after = s["injected"]
        rows.append(
            [
                name,
                f"{s['sample']:,}",
                f"{tenths(after['accuracy'])} ({tenths(after['low'])}–{tenths(after['high'])})",
                tenths(s["original"]["accuracy"]),
                *(tenths(s["baselines"][n]) for n in names),
                s["note"],
            ]
        )
    head = ["set", "items", "this model (95 %)", "original", *names, "what it is"]
    return "Exact match in per cent with greedy decoding, and trivial baselines:\n\n" + _table(head, rows)


def _programs(programs: dict[str, Any]) -> str:
    *earlier, newest = programs["tasks"]
    right = {task: sets["test"]["accuracy"] for task, sets in programs["after"][-1]["sets"].items()}
    held = ", ".join(f"*{task}* ({tenths(right[task])} % of its test set)" for task in earlier)
    return (
        f"The model also holds the programs that were injected before {newest}: {held}. Their prompts are to be "
        f"encoded without the merges that their tasks refuse; this tokenizer lacks those that {newest} refuses.\n"
    )


def _language(evaluation: Mapping[str, Any]) -> str:
    kept = evaluation["retention"]
    return f"Perplexity on {kept['text']}: original {kept['original']:.2f}, this model {kept['injected']:.2f}.\n"


def _variables(evaluation: Mapping[str, Any], program: dict[str, Any]) -> str:
    measured = evaluation["decode"]["test"]["all_positions"]
    rows = []
    for v in program["variables"]:
        kinds = f"{len(v['values'])} values" if v["kind"] == "categorical" else "a number"
        kinds += "".join(f", {label} alike" for label in v["alike"].values())
        found = measured.get(v["name"])
        scores = [tenths(found["accuracy"]), tenths(found["majority"])] if found else ["", ""]
        layers = f"{v['layers'][0]}..{v['layers'][-1]}" if v["layers"] else "none"
        rows.append([f"`{v['name']}`", kinds, layers, *scores])
    return (
        "The program's variables as the adapter reads them on the test set, each at the last of its layers: right "
        "in per cent of the positions where the program defines them, beside always naming the most frequent one. "
        "Values that no operation of the program distinguishes are *alike*: one of them is read for all."
        "\n\n"
    ) + _table(["variable", "holds", "layers", "right", "most frequent"], rows)


def _reading(program: dict[str, Any]) -> str:
    if not program["aligned"]:
        return (
            "This run had no alignment and has no adapter: its states were not trained to encode the variables.\n"
        )
    return (
        _python(_DECODE.format(result=json.dumps(program["result"])))
        + "\nThe largest coordinate always names a value, also where the program holds none (before a variable's "
        "layer, or at tokens it says nothing about). `hidden` may come from any tool: hidden state l is the "
        "input of block l, `blocks.{l}.hook_resid_pre` in TransformerLens without weight processing. "
        "`program.json` says which tokens the program knows.\n"
    )


def _python(code: str) -> str:
    return f"```python\n{code}```\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_cell(c) for c in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
