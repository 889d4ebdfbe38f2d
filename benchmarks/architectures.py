"""What factlab makes of every family of language models that transformers has.

    python benchmarks/architectures.py --out architectures.jsonl
    python benchmarks/architectures.py --families mixtral,mamba --out some.jsonl
    python benchmarks/architectures.py --show architectures.jsonl
    python benchmarks/architectures.py --page architectures.jsonl > docs/results/architectures.md

A small random model of each family is made, run on a text and handed to `LanguageModel`, each in a
process of its own, one after the other, within a minute. Every family is one line of the file; a
run that was stopped goes on behind the last one. Nothing is downloaded.

Families that cannot be made here, or whose model needs more than text, are shown with the reason.
"""

import argparse
import json
import multiprocessing
import sys
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging

from factlab import LanguageModel
from factlab.errors import FactlabError
from factlab.models.abilities import TITLES
from factlab.models.family_names import family_names
from factlab.models.tiny import tiny_parts

SECONDS = 60
PAGE = """# Architectures

What factlab can do with every family of language models that transformers {version} knows, found
out with a small random model of each. `factlab models --model NAME` says the same of a model of
yours, layer by layer. This page is written by `python benchmarks/architectures.py --page`.

Of {n} families a small model could be made of {n_made}; {n_causal} of these run on a text alone and
read it in order. factlab takes {n_loaded} ({n_causal_loaded} of those that read in order), and
refuses the others in a sentence; {n_crashed} fail in another way. By how they are run: {engines}
([what that means](../concepts/running.md)).

{able}

## Families

The columns: ask and score; trace block states; trace windows of MLP and mixer outputs; trace with
paths severed; knowledge neurons; statistics and closed-form edits; edits by gradient descent; rows
of a batch, each with an edit of its own. A tick means: in at least one layer.

{families}

## Not taken

{refused}
"""
LENGTH = 12


def measured(family: str) -> dict[str, Any]:
    """What comes of one family; in a process of its own, for it may take any memory or crash."""
    # A fork has PyTorch and transformers at hand, which a new process imports for seconds.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(family, sender))
    process.start()
    sender.close()
    try:
        if receiver.poll(SECONDS):
            return receiver.recv()
        return {"family": family, "built": False, "why": f"not done within {SECONDS} seconds"}
    except EOFError:
        process.join()
        return {"family": family, "built": False, "why": f"it ended with {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _send(family: str, sender: Connection) -> None:
    sender.send(one(family))


def one(family: str) -> dict[str, Any]:
    """Make a small model of a family, run it, and hand it to factlab."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"family": family}
    try:
        model, tokenizer = tiny_parts(family)
    except FactlabError as error:
        return result | {"built": False, "why": short(error)}
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    result |= {"built": True, "class": type(model).__name__, "parameters": n_parameters}
    result |= forward(model)
    return result | loading(model, tokenizer)


def forward(model: Any) -> dict[str, Any]:
    """Whether a text alone can be run, is answered in finite numbers, and is read in order."""
    ids = torch.tensor([[2 + 7 * place % 180 for place in range(LENGTH)]])
    other = ids.clone()
    other[0, -1] += 1
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
            changed = model(input_ids=other, use_cache=False).logits
    except Exception as error:
        return {"runs": False, "forward": short(error)}
    result = {"runs": True, "finite": bool(torch.isfinite(logits).all())}
    if logits.shape[:2] != ids.shape:
        return result | {"causal": False, "forward": f"logits of shape {tuple(logits.shape)}"}
    before = (logits - changed)[:, :-1].abs().max()
    return result | {"causal": bool(before < 1e-4)}


def loading(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Whether `LanguageModel` takes it, refuses it in a sentence, or fails in some other way."""
    try:
        lm = LanguageModel(model, tokenizer)
    except FactlabError as error:
        return {"outcome": "refused", "said": short(error, 500)}
    except Exception as error:  # what must not happen
        return {"outcome": "crashed", "said": short(error, 500)}
    rungs = lm.abilities.rungs
    return {
        "outcome": "loaded",
        "engine": lm.engine.name,
        "mixer": lm.layers.mixer,
        "rungs": {str(name): [bool(rung.can), str(rung.why)] for name, rung in rungs.items()},
    }


def short(error: BaseException, length: int = 250) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:length]


def page(results: list[dict[str, Any]]) -> str:
    """The same as a page of the documentation."""
    made = [each for each in results if each["built"]]
    loaded = [each for each in made if each["outcome"] == "loaded"]
    rungs = list(dict.fromkeys(name for each in loaded for name in each["rungs"]))
    engines = Counter(each["engine"] for each in loaded)
    able = [[TITLES[name], str(sum(each["rungs"][name][0] for each in loaded))] for name in rungs]
    families = [
        [
            each["family"],
            each["engine"],
            each["mixer"],
            *("✓" if each["rungs"][name][0] else "–" for name in rungs),
            _reason({"rungs": each["rungs"]}),
        ]
        for each in sorted(loaded, key=lambda each: each["family"])
    ]
    refused = [
        [each["family"], _reason(each).partition(": ")[2] or _reason(each)]
        for each in sorted(results, key=lambda each: each["family"])
        if each.get("outcome") != "loaded"
    ]
    return PAGE.format(
        version=transformers.__version__,
        n=len(results),
        n_made=len(made),
        n_loaded=len(loaded),
        n_causal=sum(bool(each.get("causal")) for each in made),
        n_causal_loaded=sum(bool(each.get("causal")) for each in loaded),
        n_crashed=sum(each["outcome"] == "crashed" for each in made),
        engines=", ".join(f"{name}: {number}" for name, number in engines.most_common()),
        able=_table(["what can be done", "families"], able),
        families=_table(["family", "run by", "mixer", *rungs, "why not more"], families),
        refused=_table(["family", "why not"], refused),
    )


def _table(names: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [names, ["---"] * len(names), *rows])


def shown(results: list[dict[str, Any]]) -> str:
    """A Markdown table with a line per family, and counts."""
    rungs = list(dict.fromkeys(name for each in results for name in each.get("rungs", {})))
    names = ["family", "made", "runs", "causal", "factlab", *rungs, "why not"]
    rows = [names, ["---"] * len(names)]
    for each in sorted(results, key=lambda each: each["family"]):
        marks = [each.get("rungs", {}).get(name) for name in rungs]
        rows.append([
            each["family"],
            _mark(each["built"]),
            _mark(each.get("runs") and each.get("finite")),
            _mark(each.get("causal")),
            each.get("outcome", ""),
            *("" if mark is None else _mark(mark[0]) for mark in marks),
            _reason(each),
        ])  # fmt: skip
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{table}\n\n{counts(results, rungs)}"


def counts(results: list[dict[str, Any]], rungs: list[str]) -> str:
    """How many families came how far, and why others did not."""
    made = [each for each in results if each["built"]]
    causal = [each for each in made if each.get("causal")]
    lines = [
        f"- families: {len(results)}, made: {len(made)}",
        f"- run on text alone: {sum(bool(each.get('runs')) for each in made)}, "
        f"finite: {sum(bool(each.get('finite')) for each in made)}, causal: {len(causal)}",
    ]
    for outcome, number in Counter(each["outcome"] for each in made).most_common():
        among = sum(each["outcome"] == outcome for each in causal)
        lines.append(f"- {outcome}: {number}, of these causal: {among}")
    for name in rungs:
        can = sum(each.get("rungs", {}).get(name, [False])[0] for each in results)
        lines.append(f"- {name}: {can}")
    for each in made:
        if each["outcome"] == "crashed":
            lines.append(f"- crashed: {each['family']}: {each['said']}")
    return "\n".join(lines)


def _mark(value: object) -> str:
    return "yes" if value else "no"


def _reason(each: dict[str, Any]) -> str:
    lacking = [why for can, why in each.get("rungs", {}).values() if not can]
    said = each.get("why") or each.get("said") or (lacking or [""])[0]
    also = each.get("forward", "")
    text = f"{also}; {said}" if also and also not in said else said
    return text.replace("|", "/")[:200]


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, of which the last may be torn."""
    results = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return results


def main() -> None:
    """Go through the families that are not in the file yet, and show the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", help="only these, with commas between them")
    parser.add_argument("--out", type=Path, default=Path("architectures.jsonl"))
    parser.add_argument("--show", type=Path, help="show the table of this file, and do nothing")
    parser.add_argument("--page", type=Path, help="write this file's page, and do nothing")
    options = parser.parse_args()
    if options.page:
        print(page(read(options.page)), end="")
        return
    if options.show:
        print(shown(read(options.show)))
        return
    wanted = options.families.split(",") if options.families else family_names()
    done = {each["family"] for each in read(options.out)}
    for family in wanted:
        if family in done:
            continue
        result = measured(family)
        with options.out.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(family, result.get("outcome") or result.get("why"), file=sys.stderr, flush=True)
    print(shown([each for each in read(options.out) if each["family"] in set(wanted)]))


if __name__ == "__main__":
    main()
