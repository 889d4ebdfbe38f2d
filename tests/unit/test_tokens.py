import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers, processors

from factlab.errors import InvalidRequestError, TokenizationError
from factlab.facts import Fact
from factlab.models.tiny import tiny_tokenizer
from factlab.tokens import encode, encode_continuation, encode_fact, pad, start_token_ids

PLAIN, WITH_BOS = tiny_tokenizer(), tiny_tokenizer(add_bos=True)
words = st.text(
    st.characters(
        codec="utf-8", exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"), exclude_characters="{}"
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150)
@given(before=words, subject=words, after=words, bos=st.booleans())
def test_the_span_decodes_back_to_the_subject(before, subject, after, bos):
    tokenizer = WITH_BOS if bos else PLAIN
    fact = Fact(f"{before} {{}} {after}", subject)
    tokens, span = encode_fact(tokenizer, fact)
    found = tokenizer.decode(tokens.ids[span.start : span.stop])
    assert found.strip() == subject
    assert tokens.ids[0] == tokenizer.bos_token_id or not bos


@pytest.mark.parametrize("tokenizer", [PLAIN, WITH_BOS])
def test_a_repeated_subject_is_found_where_the_slot_is(tokenizer):
    fact = Fact("Rome, yes Rome, and {} again", "Rome")
    tokens, span = encode_fact(tokenizer, fact)
    assert tokens.char_spans[span.last][1] == fact.subject_start + len("Rome")


@settings(max_examples=100)
@given(prompt=words, target=words, bos=st.booleans())
def test_prompt_and_continuation_are_the_whole_text(prompt, target, bos):
    tokenizer = WITH_BOS if bos else PLAIN
    whole, n_prompt = encode_continuation(tokenizer, prompt, target)
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
    whole, _ = encode_continuation(PLAIN, prompt, target)
    assert PLAIN.decode(whole.ids) == text


@pytest.mark.parametrize(("prompt", "target"), [("It is in", "Rome  Paris"), ("In", "1990")])
def test_spaces_without_characters_belong_to_the_target(prompt, target):
    """Byte-level tokenizers that trim offsets give a lone space no characters (Pythia does)."""
    tokenizer = tiny_tokenizer()
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    whole, n_prompt = encode_continuation(tokenizer, prompt, target)
    assert tokenizer.decode(whole.ids[:n_prompt]) == prompt
    assert tokenizer.decode(whole.ids[n_prompt:]) == f" {target}"


def test_empty_texts_are_refused():
    with pytest.raises(TokenizationError, match="prompt is empty"):
        encode(PLAIN, "  ")
    with pytest.raises(InvalidRequestError, match="target is empty"):
        encode_continuation(PLAIN, "It is in", " ")


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
