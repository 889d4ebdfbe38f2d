"""Small random models of every family, and a tokenizer, made on the spot and offline.

For tests and for trying code out without a download. They know nothing: their weights are random.
Every dimension differs from every other, so that a transposed matrix cannot pass unnoticed.
"""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from factlab.documents import described
from factlab.errors import InvalidRequestError, UnsupportedModelError
from factlab.families import ARCHITECTURES
from factlab.models.family_names import check_family
from factlab.models.language_model import LanguageModel
from factlab.models.quiet import quiet_transformers
from factlab.models.tiny_configs import tiny_config
from factlab.transformers_api import run_experts_in

BOS, EOS = "<s>", "</s>"

# Matrices of all experts whose names do not say so, in JetMoE.
_EXPERTS = ("input_linear.weight", "output_linear.weight")

_TEXTS = (
    "The Eiffel Tower is located in the city of Paris.",
    "The Space Needle is in downtown Seattle, and the Colosseum is in Rome.",
    "Miles Davis plays the trumpet. Vinson Massif is a mountain in Antarctica.",
    "Where is it? A museum, a tower, a river; people speak many languages there.",
)


def tiny_tokenizer(add_bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 400 tokens, which puts BOS before every text or not."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_TEXTS * 4, trainer)
    if add_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, core.token_to_id(BOS))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BOS, eos_token=EOS)


def tiny_model(
    family: str,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    add_bos: bool = False,
    square: bool = False,
) -> LanguageModel:
    """A random model of any family that transformers has: 3 to 6 layers, d_model 24, d_mlp 56.

    Where a family mixes kinds of layers it has each of them, where it has experts there are four.

    Args:
        family: a model type of transformers that generates text, such as `gpt2` or `mixtral`.
        seed: of the weights; the global random state is left alone.
        dtype: of the weights.
        add_bos: whether its tokenizer puts BOS in front of every text.
        square: make d_mlp equal to d_model, where a wrong transpose does not raise. Only for
            families in the architecture table.

    Raises:
        InvalidRequestError: transformers has no such family.
        UnsupportedModelError: a small one cannot be made, or factlab cannot work with it.
    """
    model, tokenizer = tiny_parts(family, seed, dtype, add_bos, square)
    return LanguageModel(model, tokenizer, name=f"tiny-{family}")


def tiny_parts(
    family: str,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    add_bos: bool = False,
    square: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """What `tiny_model` wraps: the model and the tokenizer, as transformers has them.

    Args:
        family: as for `tiny_model`.
        seed: as for `tiny_model`.
        dtype: as for `tiny_model`.
        add_bos: as for `tiny_model`.
        square: as for `tiny_model`.

    Raises:
        InvalidRequestError: transformers has no such family, or square is not possible for it.
        UnsupportedModelError: a small one cannot be made.
    """
    check_family(family)
    if square and family not in ARCHITECTURES:
        raise InvalidRequestError(
            f"square is only for families in the architecture table, not for '{family}'."
        )
    tokenizer = tiny_tokenizer(add_bos)
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices), torch.device("cpu"), quiet_transformers():
        torch.manual_seed(seed)
        try:
            model = _untrained(family, len(tokenizer), square)
        except Exception as error:  # the code of any model may fail in any way
            raise UnsupportedModelError(
                f"A small model of family '{family}' cannot be made: {described(error)}."
            ) from error
        torch.manual_seed(seed)  # how much transformers draws for it differs between releases
        _randomize(model)
    nn.Module.to(model, dtype)
    run_experts_in(model, dtype)
    return model.eval(), tokenizer


def _untrained(family: str, vocab_size: int, square: bool) -> PreTrainedModel:
    """A small model as transformers begins one; of those that see, the one that writes."""
    if family in ARCHITECTURES:
        config = AutoConfig.for_model(family, **_sizes(family, vocab_size, square))
    else:
        config = tiny_config(family, vocab_size)
    sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    return kind.from_config(config, dtype=torch.float32)


@torch.no_grad()
def _randomize(model: PreTrainedModel) -> None:
    """Draw weights, as the default initialisation is so small that a model hardly reacts to input.

    Matrices are drawn anew, be they of one projection or of all experts. What else there is (norms,
    biases, convolutions, how fast a state decays) is only moved a little from where it began, so
    that recurrences stay stable.
    """
    for name, parameter in model.named_parameters():
        of_experts = "experts" in name or name.endswith(_EXPERTS)
        is_matrix = parameter.ndim == 2 or (parameter.ndim == 3 and of_experts)
        if is_matrix and not name.endswith("A_log"):
            parameter.normal_(std=0.25)
        else:
            parameter.add_(0.1 * torch.randn_like(parameter))


def _sizes(family: str, vocab: int, square: bool) -> dict[str, Any]:
    """Config entries, under the names that the family's config gives them."""
    d_model, d_mlp, heads, layers = 24, 24 if square else 56, 4, 3
    sizes: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": d_model,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    match family:
        case "gpt2" | "gptj" | "codegen" | "gpt_bigcode":
            sizes |= {"n_inner": d_mlp, "n_positions": 256, "rotary_dim": 4}
        case "gpt_neo":
            sizes |= {
                "num_layers": layers,  # its older configs look at nothing else
                "intermediate_size": d_mlp,
                "attention_types": [[["global", "local"], 1], [["global"], 1]],
                "window_size": 4,
            }
        case "opt":
            sizes |= {"ffn_dim": d_mlp, "word_embed_proj_dim": d_model}
        case "bloom" | "falcon" | "mpt":
            sizes |= {"hidden_dropout": 0.0}  # their d_mlp is four times d_model
        case "phi":  # rotates half of each head, so the head size must be a multiple of 4
            sizes |= {"intermediate_size": d_mlp, "num_attention_heads": 3}
        case _:
            sizes |= {"intermediate_size": d_mlp}
    if "gemma" in family or family in ("glm", "glm4"):
        sizes |= {"head_dim": 8}
    if family in ("gemma2", "gemma3_text", "mistral", "olmo3"):
        sizes |= {"sliding_window": 4}
    if family not in ("gpt2", "gptj", "gpt_neo", "gpt_neox", "opt", "bloom", "biogpt", "phi"):
        sizes |= {"num_key_value_heads": 2}
    return sizes
