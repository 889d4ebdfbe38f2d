"""Where each model family keeps its parts: the one table of facts about architectures.

Only paths are stored; `architectures` reads them. Nothing here needs PyTorch.

Three places of a layer matter to causal tracing and editing, and they are the same in every family:
the layer itself, the matrix that writes attention's result into the residual stream, and the matrix
that writes the MLP's result there (W_proj of the ROME paper; its input is the key k, its output m).
"""

from dataclasses import dataclass
from typing import Literal

Layout = Literal["out_in", "in_out"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """Module paths of one family.

    Attributes:
        layers: path of the list of decoder layers; its parent runs them in order.
        embed: path of the token embedding.
        attn_out: path, inside a layer, of attention's output projection.
        mlp_out: path, inside a layer, of the MLP's output projection.
    """

    family: str
    layers: str
    embed: str
    attn_out: str
    mlp_out: str


_LLAMA_LIKE = (
    "arcee cohere ernie4_5 exaone4 gemma gemma2 gemma3_text glm glm4 granite llama "
    "mistral olmo olmo2 olmo3 phi3 qwen2 qwen3 seed_oss smollm3"
)

_ROWS = [
    # family      layers                  embed                              attn_out                mlp_out
    ("biogpt",    "biogpt.layers",        "biogpt.embed_tokens",             "self_attn.out_proj",   "fc2"),
    ("bloom",     "transformer.h",        "transformer.word_embeddings",     "self_attention.dense", "mlp.dense_4h_to_h"),
    ("codegen",   "transformer.h",        "transformer.wte",                 "attn.out_proj",        "mlp.fc_out"),
    ("falcon",    "transformer.h",        "transformer.word_embeddings",     "self_attention.dense", "mlp.dense_4h_to_h"),
    ("gpt2",      "transformer.h",        "transformer.wte",                 "attn.c_proj",          "mlp.c_proj"),
    ("gpt_bigcode", "transformer.h",      "transformer.wte",                 "attn.c_proj",          "mlp.c_proj"),
    ("gpt_neo",   "transformer.h",        "transformer.wte",                 "attn.attention.out_proj", "mlp.c_proj"),
    ("gpt_neox",  "gpt_neox.layers",      "gpt_neox.embed_in",               "attention.dense",      "mlp.dense_4h_to_h"),
    ("gptj",      "transformer.h",        "transformer.wte",                 "attn.out_proj",        "mlp.fc_out"),
    ("mpt",       "transformer.blocks",   "transformer.wte",                 "attn.out_proj",        "ffn.down_proj"),
    ("nemotron",  "model.layers",         "model.embed_tokens",              "self_attn.o_proj",     "mlp.down_proj"),
    ("opt",       "model.decoder.layers", "model.decoder.embed_tokens",      "self_attn.out_proj",   "fc2"),
    ("phi",       "model.layers",         "model.embed_tokens",              "self_attn.dense",      "mlp.fc2"),
    ("stablelm",  "model.layers",         "model.embed_tokens",              "self_attn.o_proj",     "mlp.down_proj"),
    ("starcoder2", "model.layers",        "model.embed_tokens",              "self_attn.o_proj",     "mlp.c_proj"),
    *(
        (family,  "model.layers",         "model.embed_tokens",              "self_attn.o_proj",     "mlp.down_proj")
        for family in _LLAMA_LIKE.split()
    ),
]  # fmt: skip

ARCHITECTURES: dict[str, Architecture] = {row[0]: Architecture(*row) for row in sorted(_ROWS)}
