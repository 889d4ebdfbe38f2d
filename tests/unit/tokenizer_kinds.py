"""Small fast tokenizers of every kind that language models come with, made offline and on the spot.

Each is put together as the tokenizer.json of the models that its name recalls. They are trained on
a few sentences, often enough for tokens of several characters in every language, and for most
characters of the tests' texts to be known; the byte-level ones and those that fall back on bytes
know all of them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
SENTENCES = (
    "The Eiffel Tower is located in the city of Paris, France.",
    "The Space Needle is in Seattle. It was built in 1962 and is 184.4 m high!",
    "Björk plays the naïve café's piano; José's résumé isn't here, they're late.",
    "에펠탑은 프랑스 파리에 있다. 대한민국의 수도는 서울이다.",
    "서울은 대한민국에서 가장 큰 도시이며 부산은 그 다음이다.",
    "หอไอเฟลตั้งอยู่ในกรุงปารีส เมืองหลวงของประเทศไทยคือกรุงเทพ",
    "埃菲尔铁塔位于法国的首都巴黎。中国的首都是北京，东京在日本。",
    "يقع برج إيفل في مدينة باريس. عاصمة مصر هي القاهرة.",
    "مُحَمَّدٌ يَسْكُنُ فِي القَاهِرَةِ",
    "I love 🍕 and 👩🏽\u200d🚀 in 東京タワー, ok? (see “Rome”)",
    "cafe\u0301 e\u0301toile 12345 67 8 90",
)
# The patterns that words are cut out with in Llama 3, Qwen 2, GPT-4o (in its essence) and Bloom.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace("{1,3}", "")
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
_BYTES = [f"<0x{i:02X}>" for i in range(256)]
Make = Callable[[], Tokenizer]


@dataclass(frozen=True)
class Kind:
    """A kind of tokenizer, and what it keeps of a text.

    Attributes:
        name: which models have it.
        make: makes its core.
        keeps: "all" of a text; "spaces" are lost; or what its "normaliser" makes of it is kept.
        knows_all: whether it has tokens for every character there is.
        options: for the tokenizer of transformers.
    """

    name: str
    make: Make
    keeps: str = "all"
    knows_all: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer; the same at every call."""
        return _made(self.name)


@cache
def _made(name: str) -> PreTrainedTokenizerFast:
    kind = next(kind for kind in KINDS if kind.name == name)
    return PreTrainedTokenizerFast(tokenizer_object=kind.make(), **kind.options)


# -- byte-level BPE --------------------------------------------------------------------------------


def byte_level(
    pattern: str | None = None,
    prefix_space: bool = False,
    trim: bool | None = False,
    template: str | None = None,
    nfc: bool = False,
    size: int = 700,
) -> Tokenizer:
    """As GPT-2, or with a pattern of its own."""
    core = Tokenizer(models.BPE())
    if nfc:
        core.normalizer = normalizers.NFC()
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=pattern is None)
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    core.pre_tokenizer = pre_tokenizers.Sequence([*split, level])
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(SENTENCES * 4, trainer)
    behind = [] if trim is None else [processors.ByteLevel(trim_offsets=trim)]
    core.post_processor = processors.Sequence([*behind, *_template(core, template)])
    return core


def roberta() -> Tokenizer:
    """As RoBERTa, with the post-processor that is named after it."""
    core = byte_level(prefix_space=True)
    core.post_processor = processors.RobertaProcessing((EOS, 1), (BOS, 0), True, True)
    return core


def _template(core: Tokenizer, template: str | None) -> list[processors.TemplateProcessing]:
    if template is None:
        return []
    special = [(t, core.token_to_id(t)) for t in template.split() if t != "$A"]
    return [processors.TemplateProcessing(single=template, special_tokens=[*{*special}])]


# -- like SentencePiece ----------------------------------------------------------------------------


def sentencepiece(
    scheme: str | None = None,
    prepend: bool = False,
    template: str | None = f"{BOS} $A",
    fallback: bool = True,
    split: bool = False,
    longest: int | None = 4,
) -> Tokenizer:
    """BPE of SentencePiece: with a Metaspace, or spaces replaced by a normaliser as in Llama 2."""
    trained = Tokenizer(models.BPE(unk_token=UNK))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme or "always", split=True)
    special = [UNK, BOS, EOS, *(_BYTES if fallback else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, max_token_length=longest, show_progress=False
    )
    trained.train_from_iterator(SENTENCES * 4, trainer)
    learnt = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    core = Tokenizer(
        models.BPE(learnt["vocab"], merges, unk_token=UNK, byte_fallback=fallback, fuse_unk=True)
    )
    core.add_special_tokens([AddedToken(t, normalized=False) for t in (UNK, BOS, EOS)])
    if scheme:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    else:
        first = [normalizers.Prepend("▁")] if prepend else []
        core.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", "▁")])
        if not prepend:  # as Gemma has it
            core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    strips = [decoders.Strip(" ", 1, 0)] if prepend or scheme in ("first", "always") else []
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strips]
    )
    core.post_processor = processors.Sequence(_template(core, template))
    return core


def unigram(
    normaliser: normalizers.Normalizer | None = None,
    scheme: str = "always",
    template: str | None = None,
    parts: bool = True,
    size: int = 600,
) -> Tokenizer:
    """As T5, XGLM and ALBERT."""
    core = Tokenizer(models.Unigram())
    if normaliser is not None:
        core.normalizer = normaliser
    space = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    whole = [pre_tokenizers.WhitespaceSplit()] if parts else []
    core.pre_tokenizer = pre_tokenizers.Sequence([*whole, space])
    core.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=[UNK, BOS, EOS], unk_token=UNK, show_progress=False
    )
    core.train_from_iterator(SENTENCES * 8, trainer)
    core.post_processor = processors.Sequence(_template(core, template))
    return core


# -- words and their pieces ------------------------------------------------------------------------


def wordpiece(
    lowercase: bool, chinese: bool = True, template: str | None = "[CLS] $A [SEP]"
) -> Tokenizer:
    """As BERT."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - no password
    core.normalizer = normalizers.BertNormalizer(lowercase=lowercase, handle_chinese_chars=chinese)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    core.train_from_iterator(SENTENCES * 4, trainer)
    core.post_processor = processors.Sequence(_template(core, template))
    return core


def ended_words() -> Tokenizer:
    """As the first GPT: pieces of words, of which the last says that the word ends there."""
    core = Tokenizer(models.BPE(unk_token=UNK, end_of_word_suffix="</w>"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[UNK], end_of_word_suffix="</w>", show_progress=False
    )
    core.train_from_iterator(SENTENCES * 4, trainer)
    return core


def whole_words() -> Tokenizer:
    """Words as they are, each of them known or not."""
    core = Tokenizer(models.WordLevel(unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=[UNK, BOS, EOS], show_progress=False)
    core.train_from_iterator(SENTENCES, trainer)
    return core


def characters() -> Tokenizer:
    """Every character a token, and no token for those that are not known: they are left away."""
    signs = sorted({sign for text in SENTENCES for sign in text})
    core = Tokenizer(models.BPE({sign: i for i, sign in enumerate(signs)}, []))
    core.decoder = decoders.Fuse()
    return core


_NFKC = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
_ALBERT = normalizers.Sequence(
    [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
)
_ENDS = {"bos_token": BOS, "eos_token": EOS}
_ENDS_UNK = {**_ENDS, "unk_token": UNK}
_BERT = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
KINDS = (
    Kind("gpt2", byte_level, options=_ENDS),
    Kind("gpt2-no-processor", partial(byte_level, trim=None), options=_ENDS),
    Kind("gpt2-prefix-space", partial(byte_level, prefix_space=True), options=_ENDS),
    Kind("gpt2-add-bos", byte_level, options={**_ENDS, "add_bos_token": True}),
    Kind("gpt2-add-both", byte_level, options={**_ENDS, "add_bos_token": True, "add_eos_token": True}),
    Kind("pythia", partial(byte_level, trim=True), options=_ENDS),
    Kind("roberta", roberta, options=_ENDS),
    Kind("bart", partial(byte_level, prefix_space=True, trim=True, template=f"{BOS} $A {EOS}"), options=_ENDS),
    Kind("opt", partial(byte_level, template=f"{EOS} $A"), options=_ENDS),
    Kind("glm", partial(byte_level, LLAMA3, template=f"{BOS} {EOS} $A"), options=_ENDS),
    Kind("llama3", partial(byte_level, LLAMA3, template=f"{BOS} $A"), options=_ENDS),
    Kind("llama3-trimmed", partial(byte_level, LLAMA3, trim=True), options=_ENDS),
    Kind("qwen", partial(byte_level, QWEN, nfc=True), "normaliser", options=_ENDS),
    Kind("gpt4o", partial(byte_level, GPT4O), options=_ENDS),
    Kind("bloom", partial(byte_level, BLOOM), options=_ENDS),
    Kind("bytes", partial(byte_level, size=258), options=_ENDS),
    Kind("nameless", byte_level),
    Kind("llama2", partial(sentencepiece, prepend=True), options=_ENDS_UNK),
    Kind("llama2-first", partial(sentencepiece, "first"), options=_ENDS_UNK),
    Kind("llama2-closed", partial(sentencepiece, "first", template=f"{BOS} $A {EOS}"), options=_ENDS_UNK),
    Kind("llama2-merging", partial(sentencepiece, "first", longest=None), options=_ENDS_UNK),
    Kind("mistral", partial(sentencepiece, "always"), options=_ENDS_UNK),
    Kind("mistral-split", partial(sentencepiece, "always", split=True), options=_ENDS_UNK),
    Kind("never", partial(sentencepiece, "never", template=None), options=_ENDS_UNK),
    Kind("gemma", sentencepiece, options=_ENDS_UNK),
    Kind("gemma-merging", partial(sentencepiece, longest=None), options=_ENDS_UNK),
    Kind("no-bytes", partial(sentencepiece, "first", fallback=False), "all", False, _ENDS_UNK),
    Kind("t5", partial(unigram, template=f"$A {EOS}"), "normaliser", False, {"eos_token": EOS, "unk_token": UNK}),
    Kind("xglm", partial(unigram, _NFKC, template=f"{EOS} $A", parts=False), "normaliser", False, _ENDS_UNK),
    Kind("albert", partial(unigram, _ALBERT, template=f"{BOS} $A {EOS}"), "normaliser", False, _ENDS_UNK),
    Kind("unigram-first", partial(unigram, scheme="first", parts=False), "all", False, _ENDS_UNK),
    Kind("unigram-cleans-up", partial(unigram, parts=False), "all", False, {**_ENDS_UNK, "clean_up_tokenization_spaces": True}),
    Kind("bert-uncased", partial(wordpiece, True), "spaces", False, _BERT),
    Kind("bert-cased", partial(wordpiece, False), "spaces", False, _BERT),
    Kind("bert-no-han", partial(wordpiece, False, False, None), "spaces", False, _BERT),
    Kind("gpt1", ended_words, "spaces", False, {"unk_token": UNK}),
    Kind("words", whole_words, "spaces", False, _ENDS_UNK),
    Kind("characters", characters, "all", False),
)  # fmt: skip
