"""One process of several that run the main job together; by processes_test.py: CLUSTER LM TEXT FOLDER [STEPS]."""

import dataclasses
import json
import sys

from tests.train.processes_test import DYCK, SHARED_RUN, no_examples, not_scored, size_of_parameters
from tracr_jax.train.mesh import start_processes

if __name__ == "__main__":
    cluster, lm, text, folder, *steps = sys.argv[1:]
    start_processes(cluster)

    import jax

    from tracr_jax import injection as run
    from tracr_jax.data.batches import Batches
    from tracr_jax.runs import training

    jax.config.update("jax_default_matmul_precision", "highest")
    made, whole_batch = set(), Batches.batch_at

    def batch_at(self, step):
        batch = whole_batch(self, step)
        made.add((len(batch.ids), len(batch.text_ids)))
        return batch

    Batches.batch_at = batch_at
    run.evaluate_programs, run.score_once, run.first_examples = size_of_parameters, not_scored, no_examples
    if jax.process_index() > 0:

        def refuse(*_, **__):
            raise AssertionError("only the first process may write")

        run.write_json = run.write_beginning = training.JsonLines = refuse
    done = run.inject(
        DYCK,
        lm=lm,
        config=dataclasses.replace(
            SHARED_RUN,
            mesh="data=4,fsdp=2",
            **({"steps": int(steps[0]), "checkpoint_every": 10**6} if steps else {}),
            data=dataclasses.replace(SHARED_RUN.data, text=text),
        ),
        folder=folder,
        progress=False,
    )
    print(json.dumps({"devices": jax.device_count(), "rows": sorted(made), "evaluation": done.evaluation}))
