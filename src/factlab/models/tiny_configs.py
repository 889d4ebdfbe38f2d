"""Small configs of every family of language models that transformers has, made from its own.

A config begins as its class's defaults. Whatever sizes something gets a small value, by its name;
lists with an entry per layer keep one layer of each kind; parts that see or hear are made small in
the same way. What that does not get right for a family is in `tiny_exceptions`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from factlab.models.tiny_exceptions import EXCEPTIONS, Entries

_D_MODEL, _D_MLP, _HEADS, _LAYERS = 24, 56, 4, 4
_SENSES = ("vision", "image", "audio", "vq", "qformer", "perceiver", "patcher", "visual", "protein")

# Bytes that no text holds, as tokens of `tiny_tokenizer`: behind two special tokens and 188 bytes
# that can be printed stand the control characters, here without the tab and the ends of lines.
_UNUSED = [190 + byte for byte in (*range(9), *range(14, 32))]

_NAMES: list[tuple[int, str]] = [
    (_D_MODEL, (
        "hidden_size d_model n_embd embed_dim embedding_size emb_dim embedding_dim lru_width "
        "word_embed_proj_dim attention_hidden_size encoder_hidden_size out_hidden_size "
        "text_hidden_size projector_output_dim adapter_out_dim output_dim dim_model_base "
        "input_embedding_size output_embedding_size backbone_hidden_size projection_dim "
        "hidden_size_global"
    )),
    (_D_MLP, (
        "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim d_inner dim_ff dff d_ff mlp_dim "
        "ffn_hidden_size intermediate_size_mlp feed_forward_size dense_intermediate_size "
        "projector_hidden_size projection_hidden_dim projection_intermediate_size "
        "alignment_intermediate_size projection_hidden_size prompt_mid_dim"
    )),
    (20, "moe_intermediate_size expert_ffn_hidden_size moe_hidden_size"),
    (28, (
        "shared_expert_intermediate_size shared_intermediate_size share_expert_dim "
        "moe_shared_expert_intermediate_size shared_experts_intermediate_size"
    )),
    (_HEADS, (
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads mamba_num_heads "
        "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads "
        "attention_heads mamba_n_heads linear_num_value_heads linear_num_heads index_n_heads "
        "swa_num_attention_heads resampler_n_heads resampler_heads conf_num_attention_heads "
        "num_sliding_attention_heads num_query_groups"
    )),
    (8, (
        "head_dim swa_head_dim v_head_dim index_head_dim attention_head_size linear_head_dim "
        "linear_value_head_dim dim_head resampler_head_dim resampler_dim_head kv_channels d_kv "
        "index_topk chunk_size mamba_chunk_size block_size attention_chunk_size num_query_tokens "
        "ssm_state_size state_size mamba_d_state latent_query_num resampler_n_latents d_head "
        "laurel_rank hidden_size_per_layer_input local_attn_chunk_length router_hidden_size "
        "lsh_attn_chunk_length prompt_length mm_tokens_per_image resampler_num_latents d_rel "
        "rel_extent"
    )),
    (16, "num_position_embeddings"),
    (6, "qk_nope_head_dim linear_key_head_dim"),
    (4, "qk_rope_head_dim rotary_dim sliding_window sliding_window_size attention_window_size"),
    (12, "q_lora_rank mamba_d_head mamba_head_dim"),
    (10, "kv_lora_rank qk_head_dim"),
    (5, "time_step_rank mamba_dt_rank"),
    (256, (
        "max_position_embeddings n_positions n_ctx max_seq_len context_length model_max_length "
        "max_target_positions max_source_positions original_max_position_embeddings"
    )),
]  # fmt: skip
_SIZES: dict[str, int] = {name: size for size, names in _NAMES for name in names.split()}

# Numbers that stay as they are if they are smaller.
_AT_MOST: dict[str, int] = {
    name: size
    for size, names in {
        4: (
            "num_experts num_local_experts n_routed_experts moe_num_experts zero_expert_num "
            "index_topk_blocks"
        ),
        2: (
            "num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k top_k n_group "
            "num_expert_group n_groups mamba_n_groups mamba_ngroups linear_num_key_heads "
            "num_key_value_heads swa_num_key_value_heads kv_n_heads num_kv_heads hc_mult hc_count"
        ),
        1: (
            "topk_group first_k_dense_replace num_dense_layers n_shared_experts "
            "num_shared_experts moe_num_shared_experts num_nextn_predict_layers max_window_layers"
        ),
    }.items()
    for name in names.split()
}

_VOCABULARIES = (
    "vocab_size", "unpadded_vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size",
)  # fmt: skip
_LAYER_COUNTS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers",
    "num_decoder_layers", "num_blocks", "layers",
)  # fmt: skip
_OTHER_COUNTS = (
    "encoder_layers", "num_encoder_layers", "depth", "resampler_depth", "num_global_layers",
    "conf_num_hidden_layers", "decoder_num_layers",
)  # fmt: skip
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads")
_TOKENS = ("token_id", "token_index", "token_ids", "tokens_ids", "patch_id")
_KNOWN_TOKENS = {
    "bos_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip


def tiny_config(family: str, vocab_size: int) -> PreTrainedConfig:
    """A config of any family of transformers that makes a model of some ten thousand numbers.

    It has about four layers, d_model 24, d_mlp 56 and four experts, two per token, as far as the
    family bears that; more kinds of layers than that get one layer each. Special tokens are such
    as do not occur in texts.

    Args:
        family: a model type of transformers.
        vocab_size: how many tokens the tokenizer has.
    """
    return _Shrinking(vocab_size).shrunk(AutoConfig.for_model(family))


class _Shrinking:
    """The way from a config to a small one, which hands out tokens on the way.

    Args:
        vocab_size: how many tokens there are.
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._unused: Iterator[int] = iter(_UNUSED)

    def shrunk(
        self, default: PreTrainedConfig, senses: bool = False, more: Entries | None = None
    ) -> PreTrainedConfig:
        """The same config with small sizes.

        Args:
            default: of a model, or of a part of one.
            senses: whether it is a part that sees or hears.
            more: entries that the whole asks of this part.
        """
        special: dict[str, Any] = dict(
            EXCEPTIONS.get(default.model_type or type(default).__name__, {})
        )
        special |= more or {}
        old = {name: value for name, value in vars(default).items() if not name.startswith("_")}
        new: dict[str, Any] = {}
        for name, value in old.items():
            if isinstance(value, PreTrainedConfig):
                part = senses or any(word in name for word in _SENSES)
                new[name] = self.shrunk(value, part, special.pop(name, None))
            elif name.endswith(_TOKENS):
                new |= self._tokens(name, value)
            elif _is_number(value):
                new |= self._sizes(name, value, old, senses)
        if "head_dim" in old and old["head_dim"] is None and not old.get("qk_rope_head_dim"):
            new["head_dim"] = _SIZES["head_dim"]
        if not senses:
            new |= _per_layer(old)
            if old.get("pad_token_id", 0) is None:
                new["pad_token_id"] = _KNOWN_TOKENS["pad_token_id"]
            if old.get("is_decoder") is False:
                new["is_decoder"] = True
        new |= special
        return type(default)(**{name: value for name, value in new.items() if value is not ...})

    def _tokens(self, name: str, value: Any) -> dict[str, Any]:
        """An entry that names a token, or several."""
        if _is_number(value):
            if name in _KNOWN_TOKENS:
                return {name: _KNOWN_TOKENS[name]}
            return {name: next(self._unused)} if value > 1 else {}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return {name: [1] if name == "eos_token_id" else [next(self._unused) for _ in value]}
        return {}

    def _sizes(self, name: str, value: int, old: Mapping[str, Any], senses: bool) -> dict[str, int]:
        """An entry that is a number, made small if it is the size of something."""
        size = None
        if name in _LAYER_COUNTS or name in _OTHER_COUNTS:
            size = min(value, 2 if senses or name in _OTHER_COUNTS else _LAYERS)
        elif name in _VOCABULARIES:
            size = self._vocab_size if value else None
        elif value <= 0:
            size = None
        elif senses and name in ("hidden_size", "embed_dim", "d_model"):
            size = 32
        elif senses and name == "image_size" and _is_number(old.get("patch_size")):
            size = 4 * old["patch_size"]
        elif name in _KEY_VALUE_HEADS and value == old.get(name.replace("key_value", "attention")):
            size = _HEADS
        elif name == "head_dim" and old.get("qk_rope_head_dim"):
            # It is that of the part that is rotated, or that of both.
            rotated = value == old["qk_rope_head_dim"]
            size = _SIZES["qk_rope_head_dim" if rotated else "qk_head_dim"]
        elif name in _SIZES:
            size = _SIZES[name]
        elif name in _AT_MOST:
            size = min(value, _AT_MOST[name])
        return {} if size is None else {name: size}


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _per_layer(old: Mapping[str, Any]) -> dict[str, Any]:
    """Lists with an entry per layer, with one layer of each kind left; and how many these are."""
    count = next((name for name in _LAYER_COUNTS if _is_number(old.get(name))), None)
    if count is None:
        return {}
    lists = {
        name: value
        for name, value in old.items()
        if isinstance(value, list | tuple)
        and len(value) == old[count] > 1
        and list(value) != list(range(len(value)))  # those would be numbers of layers
    }
    if not lists:
        return {}
    kept = _kinds(list(lists.values()))
    return {
        count: len(kept),
        **{name: [values[index] for index in kept] for name, values in lists.items()},
    }


def _kinds(lists: Sequence[Sequence[object]]) -> list[int]:
    """Which layers to keep: the first of each kind by each list, and others up to four."""
    kept: set[int] = set()
    for values in lists:
        seen: list[object] = []
        for index, value in enumerate(values):
            if value not in seen:
                seen.append(value)
                kept.add(index)
    last = max(kept)
    rest = [index for index in range(len(lists[0])) if index not in kept]
    rest.sort(key=lambda index: (index < last, index))
    return sorted([*kept, *rest[: max(0, _LAYERS - len(kept))]])
