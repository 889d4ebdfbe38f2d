"""What a model is: what counts as another one, and what does not."""

import dataclasses
import threading
import warnings
from importlib.metadata import version
from pathlib import Path

import peft
import pytest
import torch
import transformers
from tiny_records import FT, LIKELIHOODS, ROME, background, make_records

import factlab as fl
from factlab.errors import StorageError, WrongModelError
from factlab.models.identity import computation, weights
from factlab.models.tiny import tiny_model
from model_families import FAMILIES

FACT = fl.Fact("{} is in", "The Louvre", "Rome")
LOCK = Path(__file__).parents[2] / "requirements" / "locked.txt"

# Entries of the configs of toy models that say nothing about what is computed with the weights.
_NOT_COMPUTED = """
    activation_dropout add_cross_attention attention_bias attention_dropout attention_out_bias
    attention_probs_dropout_prob attention_softmax_in_fp32 attn_pdrop bias bos_token_id
    chunk_size_feed_forward classifier_dropout d_model dropout emb_pdrop embd_pdrop
    embed_dropout embedding_dropout embedding_fraction enable_bias eos_token_id expansion_ratio
    ffn_dim ffn_hidden_size hidden_dropout hidden_dropout_prob hidden_size id2label init_device
    init_std initializer_range intermediate_size is_decoder is_encoder_decoder label2id
    layer_norm_elementwise_affine layerdrop max_position_embeddings max_seq_len mlp_bias n_ctx
    n_embd n_inner n_layer n_layers n_positions no_bias num_hidden_layers num_layers
    pad_token_id pretraining_tp problem_type resid_dropout resid_pdrop residual_dropout
    scale_attention_softmax_in_fp32 slow_but_exact summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj tie_word_embeddings use_bias
    use_qkv_bias vocab_size word_embed_proj_dim _name_or_path architectures dtype
    output_attentions output_hidden_states return_dict transformers_version use_cache
"""
NOT_COMPUTED = {*_NOT_COMPUTED.split()}


def edit_of(lm: fl.LanguageModel) -> fl.Edit:
    return fl.editing.fine_tune(lm, [FACT], "ft+l", FT)


# -- what is computed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("pad_token_id", 0),
        ("eos_token_id", [1, 0]),
        ("attention_dropout", 0.1),
        ("num_labels", 3),
        ("a_field_of_the_next_release", {"x": None}),
        ("sliding_window", None),
    ],
)
def test_what_changes_nothing_that_is_computed_is_no_other_model(entry, value):
    lm = tiny_model("llama")
    edit, before, said = edit_of(lm), lm.fingerprint, lm.next_token_probs([FACT.prompt])
    setattr(lm.model.config, entry, value)
    assert torch.equal(lm.next_token_probs([FACT.prompt]), said)
    assert lm.fingerprint == before
    with edit.applied(lm):
        pass


@pytest.mark.parametrize(
    ("family", "entry", "value"),
    [
        ("llama", "rms_norm_eps", 0.1),
        ("llama", "hidden_act", "relu"),
        ("llama", "num_key_value_heads", 1),
        ("llama", "rope_parameters", {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}),
        ("gpt2", "scale_attn_weights", False),
        ("gpt2", "activation_function", "relu"),
        ("gemma2", "final_logit_softcapping", 5.0),
        ("gemma2", "sliding_window", 2),
        ("granite", "residual_multiplier", 0.5),
        ("gpt_neox", "use_parallel_residual", False),
    ],
)
def test_what_is_computed_otherwise_is_another_model(family, entry, value):
    lm = tiny_model(family)
    edit, before = edit_of(lm), lm.fingerprint
    setattr(lm.model.config, entry, value)
    assert lm.fingerprint != before
    with pytest.raises(WrongModelError):
        edit.apply_(lm)


def test_one_rotation_written_in_three_ways():
    written = [
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2}},
        {"rope_theta": 500000, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rotary_emb_base": 5e5, "rope_parameters": {"type": "linear", "factor": 2.0}},
    ]
    ropes = [computation.without_unset(computation._rope(entries)) for entries in written]
    assert ropes[0] == ropes[1] == ropes[2] != {}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_entry_of_a_config_is_sorted(family):
    """A new one must be looked at: does it change what is computed?"""
    if f"transformers=={version('transformers')} " not in LOCK.read_text(encoding="utf-8"):
        pytest.skip("entries of other releases are sorted when the lock moves to them")
    entries = tiny_model(family).model.config.to_dict().keys()
    known = computation.ENTRIES | computation.ROPE_ENTRIES | computation.TABLES | NOT_COMPUTED
    assert entries <= known


def test_nothing_is_sorted_twice():
    assert not NOT_COMPUTED & (computation.ENTRIES | computation.ROPE_ENTRIES)


# -- weights ---------------------------------------------------------------------------------------


def double(lm):
    lm.mlp_weight(0).data.mul_(2)


def other_tensor(lm):
    lm.mlp_weight(0).data = torch.ones_like(lm.mlp_weight(0))


def through_numpy(lm):
    array = lm.mlp_weight(0).detach().numpy()
    array *= 2


def through_a_vector(lm):
    parameters = list(lm.model.parameters())
    vector = torch.nn.utils.parameters_to_vector(parameters).detach()
    torch.nn.utils.vector_to_parameters(vector * 1.5, parameters)


def merged_adapter(lm):
    config = peft.LoraConfig(target_modules=["down_proj"], r=4, init_lora_weights=False)
    with warnings.catch_warnings():  # PEFT's own, of transformers' names
        warnings.simplefilter("ignore", FutureWarning)
        peft.get_peft_model(lm.model, config).merge_and_unload()


WHOLE = [double, other_tensor, through_numpy, through_a_vector, merged_adapter]


def one_number(lm):
    lm.mlp_weight(1).data[3, 5] += 1


def two_rows_change_places(lm):
    weight = lm.embedding.weight.data
    weight[[4, 90]] = weight[[90, 4]]


@pytest.mark.parametrize("change", [*WHOLE, one_number, two_rows_change_places])
def test_weights_that_nobody_said_were_changed(change):
    lm = tiny_model("llama")
    before = lm.fingerprint
    few = fl.stats.StatsConfig(tokens_per_dim=2, row_length=16)
    fl.stats.second_moments(lm, [1], few)
    edit = edit_of(lm)
    change(lm)
    fresh = fl.LanguageModel(lm.model, lm.tokenizer, lm.name)
    assert lm.fingerprint == fresh.fingerprint != before
    kept = fl.stats.second_moments(lm, [1], few)[1].matrix
    right = fl.stats.second_moments(fresh, [1], few, recompute=True)[1].matrix
    assert torch.equal(kept, right)
    if change in WHOLE:  # an edit that is applied looks at a sample only
        with pytest.raises(WrongModelError):
            edit.apply_(lm)


def test_half_precision_is_looked_at_again():
    lm = tiny_model("llama")
    assert lm.fingerprint
    lm.model.half()
    assert lm.fingerprint == fl.LanguageModel(lm.model, lm.tokenizer).fingerprint


def test_changes_that_are_counted_are_seen_inside_a_block():
    lm = tiny_model("llama")
    with lm.alone():
        before = lm.fingerprint
        with torch.no_grad():
            lm.mlp_weight(0).mul_(2)
        assert lm.fingerprint != before
    double(lm)
    with lm.alone():
        first = lm.fingerprint
    lm.mlp_weight(0).data.div_(4)
    with lm.alone():
        assert lm.fingerprint == before != first


def test_weights_that_begin_anywhere_in_memory():
    lm = tiny_model("llama", dtype=torch.bfloat16)
    same = lm.fingerprint
    weight = lm.mlp_weight(0)
    room = torch.empty(weight.numel() + 1, dtype=weight.dtype)
    room[1:] = weight.detach().flatten()
    weight.data = room[1:].view(weight.shape)
    assert lm.fingerprint == same
    weight.data[-1, -1] = 9
    assert lm.fingerprint != same


def test_hashing_is_told(tmp_path, monkeypatch):
    lm, told = tiny_model("llama"), []
    lm.identity.now(progress=lambda *said: told.append(said))
    assert not told, "it is done in no time"
    double(lm)
    monkeypatch.setattr(weights, "_WORTH_TELLING", 1)
    lm.identity.now(progress=lambda label, done, total: told.append((label, done, total)))
    assert {label for label, _, _ in told} == {"hashing the model"}
    told.clear()
    lm.identity.now(progress=lambda *said: told.append(said))
    assert not told, "it was hashed before"
    double(lm)
    fl.average_trace(
        lm, [fl.Fact("{} is in", "Rome")], fl.tracing.TraceConfig(samples=1), tmp_path / "run",
        progress=lambda *said: told.append(said),
    )  # fmt: skip
    assert told[0][0] == "hashing the model"


def test_threads_get_one_answer():
    lm, found = tiny_model("llama"), []
    threads = [threading.Thread(target=lambda: found.append(lm.fingerprint)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({*found}) == 1


# -- tokenizer -------------------------------------------------------------------------------------


def test_a_tokenizer_is_what_it_makes_of_text():
    lm = tiny_model("llama")
    plain = lm.identity.now()
    lm.tokenizer.pad_token = lm.tokenizer.eos_token
    lm.tokenizer(["Rome", "the Space Needle"], padding=True, truncation=True, max_length=3)
    lm.tokenizer.padding_side = "left"
    assert lm.identity.now() == plain
    other = tiny_model("llama", add_bos=True)
    assert other.fingerprint == plain.fingerprint
    assert other.identity.now().tokenizer != plain.tokenizer
    lm.tokenizer.add_tokens(["Colosseum"])
    assert lm.identity.now().tokenizer != plain.tokenizer


def test_runs_and_what_they_keep_depend_on_the_tokenizer(tmp_path):
    plain, with_bos = tiny_model("llama"), tiny_model("llama", add_bos=True)
    records = make_records(2)

    def run(lm, out, **more):
        return fl.evaluate(
            lm, records, "rome", tmp_path / out, ROME, measure=LIKELIHOODS,
            background=background(lm), cache=tmp_path / "cache", **more,
        )  # fmt: skip

    first = run(plain, "plain")
    second = run(with_bos, "bos")
    alone = fl.evaluate(
        with_bos, records, "rome", tmp_path / "alone", ROME, measure=LIKELIHOODS,
        background=background(with_bos), cache=tmp_path / "empty",
    )  # fmt: skip
    befores = [[row.before for row in each.rows] for each in (first, second, alone)]
    assert befores[1] == befores[2] != befores[0]
    assert not first.shares_table(second)
    with pytest.raises(StorageError, match=r"its model\.tokenizer"):
        run(with_bos, "plain", resume=True)
    # An edit is of weights.
    with fl.rome(plain, FACT, ROME, background(plain)).applied(with_bos):
        pass


# -- fingerprints of factlab 0.1 -------------------------------------------------------------------


def test_edits_and_statistics_of_earlier_versions_are_known(make_model):
    lm = make_model("llama")
    old = lm.identity.as_of_old()
    assert len(old) == 64
    edit = edit_of(lm)
    base = edit.base.model_copy(update={"fingerprint": old})
    earlier = dataclasses.replace(edit, base=base)
    with earlier.applied(lm):
        assert lm.identity.matches(old)
        assert not lm.identity.matches(old, live=True)
    with pytest.raises(WrongModelError):
        earlier.apply_(make_model("llama", seed=1))
    moments = fl.stats.second_moments(lm, [0])
    fl.stats.SecondMoment(moments[0].matrix, 0, 9, "text", old).check_model(lm)


def test_kept_statistics_of_earlier_versions_are_found(make_model, monkeypatch):
    lm = make_model("llama")
    with monkeypatch.context() as then:
        then.setattr(type(lm), "live_fingerprint", property(lambda lm: lm.identity.as_of_old(True)))
        kept = fl.stats.second_moments(lm, [0])[0]
    assert len(kept.fingerprint) == 64
    again = fl.stats.second_moments(lm, [0])[0]
    assert again == kept
    assert again.fingerprint == kept.fingerprint


def test_what_a_release_adds_to_configs_is_no_other_model(make_model):
    """An old fingerprint holds entries that each release adds; the new one does not."""
    lm = make_model("llama")
    old, new = lm.identity.as_of_old(), lm.fingerprint
    lm.model.config.added_by = transformers.__version__
    assert lm.identity.as_of_old() != old
    assert lm.fingerprint == new
