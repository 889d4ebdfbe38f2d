"""What tokenizers of every kind do at the edges: added and unknown tokens, BOS and EOS, models."""

from types import SimpleNamespace

import pytest
import torch
from tokenizer_kinds import BOS, EOS, KINDS, UNK, byte_level, sentencepiece, unigram
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import factlab as fl
from factlab.errors import TokenizationError
from factlab.facts import Fact
from factlab.models.accept import check_tokenizer
from factlab.models.generation import decode_continuation
from factlab.tokens import context_place, encode, subject_span

NAMED = {kind.name: kind for kind in KINDS}
ENDS = {"bos_token": BOS, "eos_token": EOS}
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def fresh(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a kind that may be changed."""
    kind = NAMED[name]
    return PreTrainedTokenizerFast(tokenizer_object=kind.make(), **kind.options)


def model_for(tokenizer: PreTrainedTokenizerFast, missing: int = 0) -> fl.LanguageModel:
    """A random model with a row for every token of a tokenizer, but for the last few."""
    config = LlamaConfig(
        vocab_size=len(tokenizer) - missing,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    return fl.LanguageModel(model, tokenizer, name="small")


# -- with a model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name != "words"], ids=str)
def test_a_model_scores_what_transformers_encodes(kind):
    tokenizer = fresh(kind.name)
    lm = model_for(tokenizer)
    prompt, target = "The Eiffel Tower is located in", "Paris"
    (scored,) = lm.score([prompt], [target])
    ids = tokenizer(f"{prompt} {target}")["input_ids"]
    whole = encode(tokenizer, prompt, target)
    assert ids[: len(whole)] == list(whole.ids)
    with torch.no_grad():
        logprobs = lm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    at = range(whole.n_prompt, len(whole))
    assert scored.token_ids == tuple(ids[i] for i in at)
    right = [float(logprobs[i - 1, ids[i]]) for i in at]
    assert scored.logprobs == pytest.approx(right, abs=1e-5)
    probs = lm.next_token_probs([prompt])[0]
    torch.testing.assert_close(
        probs.double(), logprobs[whole.n_prompt - 1].exp(), atol=1e-6, rtol=1e-4
    )
    made = lm.fact_continuation(Fact("{} is located in", "The Eiffel Tower"), target)
    assert made.ids == whole.ids
    assert tokenizer.decode([made.prompt_ids[made.lookup]]).strip().lower() in "tower</w>"


def test_a_tokenizer_without_any_names_and_with_a_template_only():
    tokenizer = fresh("nameless")
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_tokens(
        [AddedToken(f"<|{t}|>", special=True) for t in ("user", "assistant", "end")]
    )
    lm = model_for(tokenizer)
    asked = [{"role": "user", "content": "Where is Rome?"}]
    prompt = lm.chat_prompt("Where is Rome?")
    right = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    assert list(lm.encode(prompt).ids) == list(right)
    assert lm.chat("Where is Rome?", 5) == lm.generate(prompt, 5)[len(prompt) :].strip()
    made = lm.fact_continuation(Fact(prompt.replace("Rome", "{}"), "Rome"), "Paris")
    assert tokenizer.decode(made.subject_ids).strip() == "Rome"
    assert tokenizer.decode(made.target_ids) == "Paris"
    (score,) = lm.score([prompt], ["Paris"])
    assert score.token_ids == made.target_ids
    assert context_place(tokenizer, lm.encode(prompt), prompt.index("Rome")) == len("<|user|>\n")
    with pytest.raises(TokenizationError, match=r"Set tokenizer\.bos_token"):
        fl.models.generation.start_token_id(
            SimpleNamespace(
                tokenizer=tokenizer,
                model=SimpleNamespace(
                    generation_config=SimpleNamespace(), config=SimpleNamespace()
                ),
            )
        )


@pytest.mark.parametrize("name", ["gpt2", "llama2", "gemma", "t5", "bert-cased"])
def test_a_model_with_fewer_rows_than_its_tokenizer_has_tokens(name):
    tokenizer = fresh(name)
    tokenizer.add_tokens(["Zanzibar"])
    lm = model_for(tokenizer, missing=1)
    lm.score(["The Tower is in"], ["Paris"])
    for prompt, target in (("It is in", "Zanzibar"), ("Zanzibar is in", "Paris")):
        with pytest.raises(TokenizationError, match=r"'Zanzibar' has the id \d+, but small has"):
            lm.score([prompt], [target])


# -- added tokens ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["gpt2", "pythia", "llama3", "llama2", "mistral", "t5", "bert-cased"]
)
@pytest.mark.parametrize("special", [True, False])
def test_spaces_that_an_added_token_takes_are_not_the_targets(name, special):
    """As in Phi-3, whose tokens that end a turn take the white space behind them."""
    tokenizer = fresh(name)
    tokenizer.add_tokens([AddedToken("<|end|>", rstrip=True, special=special, normalized=False)])
    whole = encode(tokenizer, "It is in France.<|end|>", "Paris")
    assert list(whole.ids) == tokenizer("It is in France.<|end|> Paris")["input_ids"][: len(whole)]
    pieces = tokenizer.convert_ids_to_tokens(list(whole.ids))
    assert pieces[whole.n_prompt - 1] == "<|end|>"
    assert tokenizer.decode(whole.ids[whole.n_prompt :]).strip() == "Paris"


@pytest.mark.parametrize(
    "name", ["gpt2", "pythia", "llama3", "llama2", "mistral", "t5", "bert-cased"]
)
def test_added_tokens_as_subject_and_target(name):
    tokenizer = fresh(name)
    tokenizer.add_tokens([AddedToken("Zanzibar", single_word=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    number = tokenizer.convert_tokens_to_ids("Zanzibar")
    whole = encode(tokenizer, "In <mask>, the Zanzibar is in", "Zanzibar")
    assert whole.ids[-1] == number
    span = subject_span(whole, len("In <mask>, the "), "Zanzibar")
    assert whole.ids[span.last] == number
    mask = subject_span(whole, len("In "), "<mask>")
    assert whole.ids[slice(*mask)] == (tokenizer.convert_tokens_to_ids("<mask>"),)
    assert encode(tokenizer, "It is in", "<mask>").ids[-1:] == whole.ids[slice(*mask)]


@pytest.mark.parametrize("name", ["llama3", "llama2", "llama2-first", "mistral", "gemma"])
def test_special_tokens_that_a_prompt_brings(name):
    tokenizer = fresh(name)
    for text in (f"{BOS}The Tower is", f"{BOS} The Tower is", f"{EOS}{BOS}The Tower is"):
        ids = encode(tokenizer, text, "Paris").ids
        assert list(ids) == tokenizer(f"{text} Paris", add_special_tokens=False)["input_ids"]
    within = encode(tokenizer, f"The Tower{EOS} is", "Paris")
    assert list(within.ids) == tokenizer(f"The Tower{EOS} is Paris")["input_ids"]
    assert within.n_special == 1
    # Signs that tokenizers write for a space are no special tokens; nor is a letter a space.
    assert encode(tokenizer, "▁ is").n_special == 1
    ring = encode(tokenizer, "Ġ is")
    assert ring.char_spans[subject_span(ring, 0, "Ġ").start] == (0, 1)


@pytest.mark.parametrize("name", ["bart", "llama2-closed", "gpt2-add-both", "t5", "albert"])
def test_no_eos_stands_between_prompt_and_target(name):
    tokenizer = fresh(name)
    eos = tokenizer.eos_token_id
    assert tokenizer("The Tower is in")["input_ids"][-1] == eos
    prompt, whole = (
        encode(tokenizer, "The Tower is in"),
        encode(tokenizer, "The Tower is in", "Paris"),
    )
    assert eos not in (*prompt.ids, *whole.ids)
    assert whole.ids[: len(prompt)] == prompt.ids


# -- unknown and merged ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no-bytes", "t5", "xglm", "bert-cased", "gpt1", "words"])
def test_unknown_characters(name):
    """A model that is made to say "unknown" says it for every other such word, too."""
    tokenizer = fresh(name)
    unknown = tokenizer.unk_token
    with pytest.raises(
        TokenizationError, match=rf"'ξξ' has 'ξ+', .* no token for: '{unknown.replace('[', '.')}"
    ):
        encode(tokenizer, "The city is", "ξξ")
    whole = encode(tokenizer, "ξ is in the city of", "Paris")
    assert tokenizer.unk_token_id in whole.ids[: whole.n_prompt], "as transformers has it"
    with pytest.raises(TokenizationError, match="no token for anything in the subject 'ξ'"):
        subject_span(whole, 0, "ξ")
    subject_span(whole, 0, "ξ is")
    if name == "no-bytes":
        assert encode(tokenizer, "It writes", UNK).ids[-1] == tokenizer.unk_token_id, "asked for"


def test_the_unknown_token_need_not_be_named():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=sentencepiece("first", fallback=False))
    with pytest.raises(
        TokenizationError, match="'ξ', which the tokenizer has no token for: '<unk>'"
    ):
        encode(tokenizer, "The city is", "ξ")


def untrained_bytes() -> Tokenizer:
    """Byte-level BPE whose trainer was not told to know every byte."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(["The city is in a 1."], trainers.BpeTrainer(show_progress=False))
    return core


@pytest.mark.parametrize(
    ("core", "part"), [(NAMED["characters"].make(), "ξ"), (untrained_bytes(), "aξi")]
)
def test_characters_that_are_left_away(core, part):
    """After these, the offsets of everything that follows in a word are wrong."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    with pytest.raises(TokenizationError, match=f"no token for '{part}' in 'The city is in aξi'"):
        encode(tokenizer, "The city is in", "aξi")
    tokens = encode(tokenizer, "The aξi is in")
    assert list(tokens.ids) == tokenizer("The aξi is in")["input_ids"], "as transformers has it"
    with pytest.raises(TokenizationError, match="leaves it away without notice"):
        subject_span(tokens, 4, "aξi")
    tokenizer.add_tokens(["ξξ"])
    known = encode(tokenizer, "The ξξ is", "in")
    assert tokenizer.decode(known.ids[known.n_prompt :]).strip() == "in"


@pytest.mark.parametrize(
    "model", [models.WordLevel({"a": 0}), models.Unigram([("a", -1.0), ("b", -1.0)])]
)
def test_a_tokenizer_that_fails(model):
    core = Tokenizer(model)
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    assert encode(tokenizer, "a").ids == (0,)
    with pytest.raises(TokenizationError, match=r"does not take 'a city': .* characters that the"):
        encode(tokenizer, "a city")


@pytest.mark.parametrize("name", ["llama2-merging", "gemma-merging", "bert-no-han", "bert-cased"])
def test_a_target_that_merges_with_the_whole_prompt(name):
    """BOS or the like in front of the token does not make it two."""
    tokenizer = fresh(name)
    for prompt, target in (("埃菲尔铁塔位于法国的首都", "巴黎"), ("หอไอเฟลตั้งอยู่ในกรุง", "ปารีส")):
        whole = tokenizer(prompt + target, add_special_tokens=False)["input_ids"]
        if len(whole) > 1:  # others keep some characters apart
            continue
        with pytest.raises(TokenizationError, match=r"with the whole of .*joint='space'"):
            encode(tokenizer, prompt, target)
        apart = encode(tokenizer, prompt, f" {target}")
        assert tokenizer.decode(apart.ids[apart.n_prompt :]).strip() == target


# -- decoding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "bytes", "llama3", "llama2", "gemma"])
def test_new_tokens_that_complete_a_character(name):
    lm = SimpleNamespace(tokenizer=fresh(name))
    ids = encode(lm.tokenizer, "I love ξ").ids
    for cut in range(len(ids) - 3, len(ids)):
        new = decode_continuation(lm, ids[:cut], ids[cut:])
        assert new.endswith("ξ")
        assert "I love ξ".endswith(new)


@pytest.mark.parametrize("core", [byte_level(), sentencepiece("first"), unigram(parts=False)])
def test_decoding_takes_no_spaces_away(core):
    """Some tokenizers are set to do so before full stops and the like; it is not what was said."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        clean_up_tokenization_spaces=True,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True,
    )
    ids = encode(tokenizer, "It is in Paris . is n't it ?").ids
    n_prompt = len(encode(tokenizer, "It is in").ids)
    lm = SimpleNamespace(tokenizer=tokenizer)
    assert decode_continuation(lm, ids[:n_prompt], ids[n_prompt:]) == " Paris . is n't it ?"


def test_a_decoder_may_draw_a_sign_to_the_word_before():
    lm = SimpleNamespace(tokenizer=fresh("bert-cased"))
    ids = encode(lm.tokenizer, "The piano ' s , in").ids
    said = [decode_continuation(lm, ids[:cut], ids[cut:]) for cut in range(3, len(ids))]
    assert [text.split()[-1] for text in said] == ["in"] * len(said)
    assert all("s" in text for text in said[:2])


@pytest.mark.parametrize("name", ["gpt2", "gpt1", "bert-uncased", "albert"])
def test_an_answer_without_capitals_and_accents(name, monkeypatch):
    tokenizer = fresh(name)
    lm = model_for(tokenizer)
    ids, prompt = (
        encode(tokenizer, "The café is in", "Paris, José."),
        encode(tokenizer, "The café is in"),
    )
    said = decode_continuation(lm, prompt.ids, ids.ids[len(prompt) :])
    monkeypatch.setattr(type(lm), "generate_batch", lambda *_args, **_options: [said])
    for target, says in (("Paris", True), ("Paris, José", True), ("Pari", False), ("Rome", False)):
        (answer,) = fl.models.answers(lm, [Fact("The {} is in", "café", target)])
        assert answer.says_new == says


# -- slow ------------------------------------------------------------------------------------------


def test_slow_tokenizers_are_refused():
    slow = ByT5Tokenizer()
    with pytest.raises(TokenizationError, match=r"ByT5Tokenizer does not report .*tokenizer\.json"):
        check_tokenizer(slow)
    with pytest.raises(TokenizationError, match=r"ByT5Tokenizer does not report .*tokenizer\.json"):
        encode(slow, "It is in")
    with pytest.raises(TokenizationError, match="ByT5Tokenizer does not report"):
        fl.LanguageModel(model_for(fresh("gpt2")).model, slow)
