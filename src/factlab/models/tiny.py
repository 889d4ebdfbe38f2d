"""Small random models of every family, and a tokenizer, made on the spot and offline.

For tests and for trying code out without a download. They know nothing: their weights are random.
Every dimension differs from every other, so that a transposed matrix cannot pass unnoticed.
"""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from factlab.errors import InvalidRequestError, nearest
from factlab.families import ARCHITECTURES
from factlab.models.language_model import LanguageModel

BOS, EOS = "<s>", "</s>"

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
    """A random model of a family in the architecture table: 3 layers, d_model 24, d_mlp 56.

    Args:
        family: a name in `factlab.families.ARCHITECTURES`.
        seed: of the weights; the global random state is left alone.
        dtype: of the weights.
        add_bos: whether its tokenizer puts BOS in front of every text.
        square: make d_mlp equal to d_model, where a wrong transpose does not raise.

    Raises:
        InvalidRequestError: the family is not in the table.
    """
    if family not in ARCHITECTURES:
        raise InvalidRequestError(
            f"Family '{family}' is not in the architecture table.{nearest(family, ARCHITECTURES)}"
        )
    tokenizer = tiny_tokenizer(add_bos)
    config = AutoConfig.for_model(family, **_sizes(family, len(tokenizer), square))
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices), torch.device("cpu"):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        torch.manual_seed(seed)  # how much transformers draws for it differs between releases
        # The default initialisation is so small that a random model hardly reacts to its input.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(std=0.25)
                else:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return LanguageModel(model.to(dtype).eval(), tokenizer, name=f"tiny-{family}")


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
