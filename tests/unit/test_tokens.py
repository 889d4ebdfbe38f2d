import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import factlab as fl
from factlab.errors import InvalidRequestError, TokenizationError
from factlab.evaluation.measuring.ordinary_text import OrdinaryText
from factlab.facts import JOINED, Fact
from factlab.models.generation import generate_ids
from factlab.models.tiny import tiny_model, tiny_tokenizer
from factlab.stats.corpus import corpus_from_texts
from factlab.tokens import encode, pad, start_token_ids, subject_span

PLAIN, WITH_BOS = tiny_tokenizer(), tiny_tokenizer(add_bos=True)
# But for a slot's braces, and the word joiner that says how a target is joined to its prompt.
words = st.text(
    st.characters(
        codec="utf-8",
        exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"),
        exclude_characters="{}" + JOINED,
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150)
@given(before=words, subject=words, after=words, bos=st.booleans())
def test_the_span_decodes_back_to_the_subject(before, subject, after, bos):
    tokenizer = WITH_BOS if bos else PLAIN
    fact = Fact(f"{before} {{}} {after}", subject)
    tokens = encode(tokenizer, fact.prompt)
    span = subject_span(tokens, fact.subject_start, fact.subject)
    found = tokenizer.decode(tokens.ids[span.start : span.stop])
    assert found.strip() == subject
    assert tokens.ids[0] == tokenizer.bos_token_id or not bos


@pytest.mark.parametrize("tokenizer", [PLAIN, WITH_BOS])
def test_a_repeated_subject_is_found_where_the_slot_is(tokenizer):
    fact = Fact("Rome, yes Rome, and {} again", "Rome")
    tokens = encode(tokenizer, fact.prompt)
    span = subject_span(tokens, fact.subject_start, fact.subject)
    assert tokens.char_spans[span.last][1] == fact.subject_start + len("Rome")


@settings(max_examples=100)
@given(prompt=words, target=words, bos=st.booleans())
def test_prompt_and_continuation_are_the_whole_text(prompt, target, bos):
    tokenizer = WITH_BOS if bos else PLAIN
    whole = encode(tokenizer, prompt, target)
    n_prompt = whole.n_prompt
    text = tokenizer.decode(whole.ids, skip_special_tokens=True)
    assert text in (f"{prompt} {target}", f"{prompt}{target}")
    assert 0 <= n_prompt < len(whole)
    if text == f"{prompt} {target}":
        assert whole.ids[:n_prompt] == encode(tokenizer, prompt).ids


@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [
        ("It is in", "Rome", "It is in Rome"),
        ("It is in ", "Rome", "It is in Rome"),
        ("It is in", " Rome", "It is in Rome"),
        ("首都は", "東京", "首都は東京"),
    ],
)
def test_a_space_is_put_where_a_writer_would(prompt, target, text):
    whole = encode(PLAIN, prompt, target)
    assert PLAIN.decode(whole.ids) == text


@pytest.mark.parametrize(("prompt", "target"), [("It is in", "Rome  Paris"), ("In", "1990")])
def test_spaces_without_characters_belong_to_the_target(prompt, target):
    """Byte-level tokenizers that trim offsets give a lone space no characters (Pythia does)."""
    tokenizer = tiny_tokenizer()
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    whole = encode(tokenizer, prompt, target)
    n_prompt = whole.n_prompt
    assert tokenizer.decode(whole.ids[:n_prompt]) == prompt
    assert tokenizer.decode(whole.ids[n_prompt:]) == f" {target}"


@pytest.mark.parametrize(
    ("joint", "text"),
    [(None, "It is in Rome"), ("space", "It is in Rome"), ("none", "It is inRome")],
)
def test_the_joint_may_be_said(joint, text):
    fact = Fact("{} is in", "It", "Rome", " Paris", joint=joint)
    whole = encode(PLAIN, fact.prompt, fact.target_new)
    assert PLAIN.decode(whole.ids) == text
    lm = tiny_model("gpt2")
    (scored,) = lm.score([fact.prompt], ["Rome"], joint=joint)
    assert PLAIN.decode(scored.token_ids) == text.removeprefix("It is in")


def closed(single: str, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of words, which puts special tokens around every text."""
    words = ["[UNK]", "[CLS]", "[SEP]", "the", "eiffel", "tower", "is", "in", "paris", "rome"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106 - no password
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", **special)  # noqa: S106 - no password


@pytest.mark.parametrize("special", [{"cls_token": "[CLS]", "sep_token": "[SEP]"}, {}])
@pytest.mark.parametrize("single", ["[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP]"])
def test_nothing_closes_a_prompt(single, special):
    """[SEP] of BERT-like tokenizers, declared as a special token of theirs or not."""
    tokenizer = closed(single, **special)
    tokens = encode(tokenizer, "The Eiffel Tower is in")
    assert tokenizer.convert_ids_to_tokens(list(tokens.ids)) == [
        "[CLS]",
        "the",
        "eiffel",
        "tower",
        "is",
        "in",
    ]
    assert tokens.n_special == 1
    whole = encode(tokenizer, "The Eiffel Tower is in", "Rome")
    n_prompt = whole.n_prompt
    assert tokenizer.convert_ids_to_tokens(list(whole.ids[n_prompt:])) == ["rome"]


def test_a_text_may_bring_its_own_special_tokens():
    ids = encode(WITH_BOS, "<s>Rome is").ids
    assert ids == encode(WITH_BOS, "Rome is").ids
    assert encode(WITH_BOS, "<s>Rome is").n_special == 0
    assert encode(closed("[CLS] $A"), "zebra is").ids == (1, 0, 6), "an unknown word is none"


def test_a_space_token_is_no_part_of_a_subject_that_follows():
    """SentencePiece gives the space that it puts in front the offsets of the first letter."""
    signs = ["<unk>", "▁", "中", "国", "的"]
    core = Tokenizer(models.BPE({t: i for i, t in enumerate(signs)}, [], unk_token="<unk>"))  # noqa: S106 - no password
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")  # noqa: S106 - no password
    fact = Fact("{}的", "中国")
    tokens = encode(tokenizer, fact.prompt)
    span = subject_span(tokens, fact.subject_start, fact.subject)
    assert tokenizer.convert_ids_to_tokens(list(tokens.ids)) == ["▁", "中", "国", "的"]
    assert tokens.ids[span.start : span.stop] == (2, 3)
    assert tokens.n_special == 0


def test_truncation_and_padding_of_a_tokenizer_are_neither_used_nor_changed():
    tokenizer, text = tiny_tokenizer(add_bos=True), "The Eiffel Tower is located in the city of"
    expected = encode(tokenizer, text)
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    settings = backend.truncation, backend.padding
    assert encode(tokenizer, text) == expected
    assert (backend.truncation, backend.padding) == settings


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(TokenizationError, match=r"prompt holds U\+DCE9 at character 4"):
        encode(PLAIN, "caf\udce9 is")
    with pytest.raises(InvalidRequestError, match=r"target holds U\+D800"):
        encode(PLAIN, "It is in", "Ro\ud800me")


@pytest.fixture
def with_added_tokens(make_model, caplog):
    lm = make_model("llama")
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.add_tokens(["Zanzibar"])
    other = fl.LanguageModel(lm.model, tokenizer)
    assert "its tokenizer has 1 more: 'Zanzibar' (id 400)" in caplog.text
    return other


@pytest.mark.parametrize(
    "act",
    [
        lambda lm: lm.next_token_probs(["Zanzibar is in"]),
        lambda lm: lm.score(["I live in"], ["Zanzibar"]),
        lambda lm: lm.generate("Zanzibar is in", 2),
        lambda lm: fl.causal_trace(lm, fl.Fact("{} is in", "Zanzibar", target_true="Rome")),
        lambda lm: fl.editing.fine_tune(lm, [fl.Fact("{} is in", "Rome", "Zanzibar")]),
        lambda lm: fl.attribute_neurons(lm, "Rome is in", "Zanzibar"),
        lambda lm: corpus_from_texts(lm, ["Zanzibar is an island."], "text", 9, 9),
        lambda lm: OrdinaryText(lm, ["Zanzibar is an island. " * 9], 9),
        lambda lm: generate_ids(lm, [[5, 400]], 1, 1, 0),
    ],
)
def test_tokens_without_an_embedding_are_refused(with_added_tokens, act):
    with pytest.raises(TokenizationError, match=r"'Zanzibar' has the id 400.*embeddings\(401\)"):
        act(with_added_tokens)


def test_empty_texts_are_refused():
    with pytest.raises(TokenizationError, match="prompt is empty"):
        encode(PLAIN, "  ")
    with pytest.raises(InvalidRequestError, match="target is empty"):
        encode(PLAIN, "It is in", " ")


def test_eos_at_the_end_is_dropped():
    tokenizer = tiny_tokenizer()
    eos = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", eos)]
    )
    assert tokenizer("Rome")["input_ids"][-1] == eos
    assert encode(tokenizer, "Rome").ids == encode(PLAIN, "Rome").ids


def test_start_token_falls_back_to_eos():
    tokenizer = tiny_tokenizer()
    assert start_token_ids(tokenizer)[0] == tokenizer.bos_token_id
    tokenizer.bos_token = None
    assert start_token_ids(tokenizer)[0] == tokenizer.eos_token_id
    tokenizer.eos_token = None
    assert start_token_ids(tokenizer) == []


def test_padding_and_alignment():
    right = pad([[1, 2, 3], [4]])
    assert right.input_ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert right.is_token.tolist() == [[True] * 3, [True, False, False]]
    assert not right.pads_left
    assert right.position_ids.tolist() == [[0, 1, 2]] * 2
    left = pad([[1, 2, 3], [4]], align=[3, 1])
    assert left.input_ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert left.pads_left
    assert left.position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]
    middle = pad([[1, 2, 3], [4, 5]], align=[1, 0])
    assert middle.input_ids.tolist() == [[1, 2, 3], [0, 4, 5]]
    assert torch.equal(middle.position_ids, torch.tensor([[0, 1, 2], [0, 0, 1]]))
