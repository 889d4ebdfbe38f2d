"""How fast is measuring edits, beside the straightforward way and beside the machine?

    python benchmarks/evaluate.py                  # the bundled model
    python benchmarks/evaluate.py --shape gpt2-xl  # random weights in the shape of a large model

The straightforward way takes one record at a time: it applies the edit, runs all prompts with both
targets (26 sequences) padded into one batch with logits everywhere, and lets transformers write ten
texts of 100 tokens. Ours measures many differently edited models in one batch, runs a prompt once
for both targets, and reads logits where a target token is. Both must find the same scores.

Useful operations are those of every token that is read, once: Σ over tokens of a layer's operations
times the layers, and a readout for every token of a target or a text.

Free answers: the prompts of a few records, each on its own edited model, in all forms that the
model can be asked in; beside one prompt at a time. Both must give the same texts.

End to end includes the edit: one at a time with the published settings, without reuse, against
ROME of this library with its defaults, in a batch.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from edit import shaped, straightforward
from machine import layer_operations, matmul_flops, peak_gib, synchronise, timed

import factlab as fl
from factlab.data.record_files import load_records
from factlab.data.records import Record
from factlab.editing.background import Background
from factlab.editing.methods import method_named
from factlab.editing.requests import ValueRequest
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.asked_texts import asks
from factlab.evaluation.measuring.free_answers import free_answers
from factlab.evaluation.measuring.likelihood import Question
from factlab.evaluation.measuring.rows import Measurement
from factlab.evaluation.measuring.yardstick import Yardstick
from factlab.models.changes.carried import row_changes
from factlab.tokens import encode, pad

LENGTH = 100


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=["gpt2-xl"], help="random weights of this shape")
    parser.add_argument("--device", default=None)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--data", default="builtin")
    parser.add_argument("--records", type=int, default=32)
    parser.add_argument("--slow-records", type=int, default=6, help="measured one at a time")
    parser.add_argument("--slow-texts", type=int, default=2, help="records with texts, likewise")
    parser.add_argument("--free-records", type=int, default=3, help="that answer freely")
    parser.add_argument("--memory", type=float, default=1.0)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    fl.models.keep_freed_memory()
    lm = shaped(args) if args.shape else fl.load(device=args.device, dtype=args.dtype)
    by_torch, by_ours = matmul_flops(lm)
    print(f"{lm.name}, {args.dtype}, {lm.device}, {torch.get_num_threads()} threads")
    print(f"large matrix product: {by_torch / 1e9:.0f} GFLOP/s by torch, "
          f"{by_ours / 1e9:.0f} GFLOP/s the way linear layers of a frozen model do it")  # fmt: skip
    records = load_records(args.data, limit=args.records)
    background, config = Background(), fl.editing.RomeConfig(layer=17 if args.shape else None)
    if args.shape:
        background = Background.of(
            [fl.stats.SecondMoment(torch.eye(lm.d_mlp).double(), 17, 1, "identity", lm.fingerprint)]
        )
    background.values = None  # optimised each time
    rome = method_named("rome").each
    facts = [record.fact for record in records]
    rome(lm, facts[:1], config, background, lambda *_: None)  # statistics, contexts, warming up
    our_edit_s, edits = timed(lm, lambda: rome(lm, facts, config, background, lambda *_: None))
    old = fl.editing.RomeConfig.published()
    contexts, site = (
        background.contexts(lm, old.contexts),
        fl.hooks.Site(config.layer or 3, fl.hooks.Stream.MLP),
    )
    request = ValueRequest(facts[0], str(facts[0].target_new))
    slow_edit_s, _ = timed(lm, lambda: straightforward(lm, request, contexts, site, old.value))

    lm.memory_gib = args.memory
    yardstick = Yardstick(lm, MeasureConfig(text_tokens=LENGTH), {})
    n, no_texts = len(records), [False] * len(records)
    yardstick.measure(records[:2], edits[:2], [False] * 2)
    ours_s, measured = timed(lm, lambda: yardstick.measure(records, edits, no_texts))
    slow_s, slow = timed(lm, lambda: [
        one_by_one(lm, record, edit)
        for record, edit in zip(records[: args.slow_records], edits, strict=False)
    ])  # fmt: skip
    gap = max(difference(a, b) for a, b in zip(slow, measured, strict=False))
    texts_s, _ = timed(lm, lambda: yardstick.measure(records, edits, [True] * n))
    slow_texts_s, new_tokens = timed(lm, lambda: [
        write(lm, record, edit)
        for record, edit in zip(records[: args.slow_texts], edits, strict=False)
    ])  # fmt: skip

    slow_one, slow_texts = slow_s / len(slow), slow_texts_s / len(new_tokens)
    likelihood = statistics.mean(likelihood_operations(lm, record) for record in records)
    writing = statistics.mean(text_operations(lm, record) for record in records)
    print(f"\n{n} records; the straightforward way on {len(slow)} and, with texts, on "
          f"{len(new_tokens)}; scores differ by at most {gap:.1e} nats\n")  # fmt: skip
    print("| | straightforward, s a record | ours | ratio | GFLOP/s useful | of torch's product |")
    print("|---|---:|---:|---:|---:|---:|")
    rows = [
        ("likelihoods", slow_one, ours_s / n, likelihood),
        ("likelihoods and texts", slow_one + slow_texts, texts_s / n, likelihood + writing),
        ("ROME and likelihoods", slow_edit_s + slow_one, (our_edit_s + ours_s) / n, 0),
        ("ROME, likelihoods, texts", slow_edit_s + slow_one + slow_texts,
         (our_edit_s + texts_s) / n, 0),
    ]  # fmt: skip
    for name, before, after, operations in rows:
        flops = operations / after
        useful = f"{flops / 1e9:.0f} | {flops / by_torch:.0%}" if operations else " | "
        print(f"| {name} | {before:.2f} | {after:.2f} | {before / after:.1f} | {useful} |")
    hourly = [3600 * n / (our_edit_s + seconds) for seconds in (texts_s, ours_s)]
    print(f"\nrecords per hour end to end: {hourly[0]:.0f} with texts, {hourly[1]:.0f} without")
    print(f"peak memory {peak_gib(lm):.1f} GiB")
    report_free_answers(lm, records[: args.free_records], edits)


def report_free_answers(lm, records: Sequence[Record], edits: Sequence[fl.Edit]) -> None:
    """Questions per second, all in one batch and one at a time."""
    forms = ("bare", "qa", "chat") if lm.tokenizer.chat_template else ("bare", "qa")
    config = MeasureConfig(n_generated=0, answers=forms)
    yardstick = Yardstick(lm, config, {})
    asked = [yardstick.texts.of(record).free for record in records]
    changes = row_changes(lm, [edit.updates for edit in edits[: len(records)]])

    def batched() -> list[list[str]]:
        found = free_answers(lm, asked, range(len(records)), changes, config.answer_tokens)
        return [[answer.text for answer in own] for own in found]

    def alone() -> list[list[str]]:
        texts: list[list[str]] = []
        for own, edit in zip(asked, edits, strict=False):
            with edit.applied(lm):
                each = [free_answers(lm, [[q]], [0], {}, config.answer_tokens) for q in own]
            texts.append([found[0][0].text for found in each])
        return texts

    ours_s, ours = timed(lm, batched)
    slow_s, slow = timed(lm, alone)
    n = sum(map(len, asked))
    n_equal = sum(a == b for one, other in zip(ours, slow, strict=True)
                  for a, b in zip(one, other, strict=True))  # fmt: skip
    print(f"\nfree answers, {', '.join(forms)}: {n} questions of {len(records)} records: "
          f"{n / ours_s:.1f} a second in a batch, {n / slow_s:.1f} one at a time "
          f"({slow_s / ours_s:.1f} times faster); {n_equal} texts are equal")  # fmt: skip


@torch.no_grad()
def one_by_one(lm, record: Record, edit: fl.Edit) -> list[list[float]]:
    """Log-probabilities of all targets: everything padded, all logits."""
    pairs = [
        encode(lm.tokenizer, ask.prompt, target)
        for ask in asks(record)
        for target in ask.targets.values()
    ]
    batch = pad([whole.ids for whole in pairs], lm.device)
    with edit.applied(lm):
        logits = lm.model(batch.input_ids, attention_mask=batch.is_token.long()).logits
    logprobs = logits.float().log_softmax(-1)
    return [
        [float(logprobs[i, at - 1, whole.ids[at]]) for at in range(whole.n_prompt, len(whole.ids))]
        for i, whole in enumerate(pairs)
    ]


@torch.no_grad()
def write(lm, record: Record, edit: fl.Edit) -> int:
    """Let transformers write the record's texts; how many tokens."""
    rows = [lm.encode(prompt).ids for prompt in record.generation_prompts]
    batch = pad(rows, lm.device, align=[len(row) for row in rows])
    with edit.applied(lm):
        made = lm.model.generate(
            input_ids=batch.input_ids, attention_mask=batch.is_token.long(), do_sample=True,
            top_k=5, max_length=LENGTH, pad_token_id=0,
        )  # fmt: skip
    synchronise(lm)
    return made.numel() - batch.input_ids.numel()


def difference(slow: Sequence[Sequence[float]], ours: Measurement) -> float:
    heard = [
        found.logprobs
        for asked in (*ours.rewrite, *ours.paraphrase, *ours.neighborhood)
        for found in (asked.new, asked.true)
    ]
    return max(
        abs(a - b)
        for one, other in zip(slow, heard, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def likelihood_operations(lm, record: Record) -> float:
    total = 0.0
    for ask in asks(record):
        question = Question.of(lm, ask.prompt, tuple(ask.targets.values()))
        every, longest = question.continuations, question.longest
        tokens = len(longest.inputs)
        tokens += sum(len(every[i].inputs) - question.n_shared(i) for i in question.branching)
        reads = sum(len(each.reads) for each in every)
        total += tokens * lm.n_layers * layer_operations(lm, len(longest.ids)) + readouts(lm, reads)
    return total


def text_operations(lm, record: Record) -> float:
    rows = [len(lm.encode(prompt).ids) for prompt in record.generation_prompts]
    layers = len(rows) * (LENGTH - 1) * lm.n_layers * layer_operations(lm, LENGTH)
    return layers + readouts(lm, sum(LENGTH - n for n in rows))


def readouts(lm, count: float) -> float:
    return count * 2 * lm.d_model * lm.embedding.weight.shape[0]


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"took {time.perf_counter() - began:.0f} s")
