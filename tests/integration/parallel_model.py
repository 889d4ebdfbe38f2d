"""A model that several processes run together, each with a piece of its weights; see its test.

python -m torch.distributed.run --nproc-per-node 2 parallel_model.py FOLDER OUT
"""

import json
import os
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import factlab as fl
from factlab.errors import FactlabError

FACT = fl.Fact("{} is in the city of", "The Space Needle", "Rome", "Seattle")


def found(lm: fl.LanguageModel, edit: fl.Edit) -> dict[str, object]:
    """What is asked of it, and why it cannot be edited."""
    trace = fl.causal_trace(lm, FACT, config=fl.tracing.TraceConfig(samples=2))
    (score,) = lm.score([FACT.prompt], [" Rome"])
    refusals = []
    for refused in (
        lambda: fl.rome(lm, FACT, fl.editing.RomeConfig(layer=0)),
        lambda: fl.editing.fine_tune(lm, FACT, config=fl.editing.FineTuneConfig(layer=0)),
        lambda: edit.apply_(lm),
    ):
        try:
            refused()
            refusals.append("")
        except FactlabError as error:
            refusals.append(str(error))
    return {
        "logprob": score.logprob,
        "text": lm.generate(FACT.prompt, 5),
        "effects": {k: torch.as_tensor(e).nan_to_num().tolist() for k, e in trace.effects.items()},
        "fingerprint": lm.fingerprint,
        "refusals": refusals,
    }


def main(folder: str, edit: str, out: str) -> None:
    in_parallel: dict[str, object] = {"tp_plan": "auto"}
    try:
        from transformers import DistributedConfig

        in_parallel = {"distributed_config": DistributedConfig(tp_plan="auto")}
    except ImportError:  # before there was one
        pass
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, **in_parallel)
    lm = fl.LanguageModel(model, AutoTokenizer.from_pretrained(folder), "parallel")
    what = found(lm, fl.Edit.load(edit))
    if os.environ["RANK"] == "0":
        Path(out).write_text(json.dumps(what))


if __name__ == "__main__":
    main(*sys.argv[1:])
