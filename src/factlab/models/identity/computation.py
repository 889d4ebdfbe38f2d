"""The part of a config that says what is computed with the weights.

A config holds some hundred entries, and every release of transformers adds to them. Most say how a
model was loaded, saved, trained or is to be padded. Those listed here change what it computes, so
an edit or a statistic of a model with one of them set otherwise is of another model. How many
layers there are and how wide they are is not listed: the weights say that.

The list is versioned: whoever adds an entry of a family that was there before raises `VERSION`,
since saved edits of that family are of another model then. An entry that only new families have
needs no new version.
"""

import json
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

VERSION = 1

# What attention looks at and how it is shared out.
_ATTENTION = """
    alibi alibi_bias_max attention_chunk_size attention_layers attention_multiplier attention_types
    attn_logit_softcapping attn_scale attn_temperature_tuning attn_type causal clip_qkv floor_scale
    full_attn_idxs global_attn_every_n_layers head_dim index_topk kv_lora_rank layer_types
    max_window_layers multi_query n_head n_heads new_decoder_architecture num_attention_heads
    num_heads num_key_value_heads num_kv_heads num_kv_shared_layers prefix_lm q_lora_rank
    qk_layernorm qk_ln qk_nope_head_dim qk_norm qk_rope_head_dim query_pre_attn_scalar
    reorder_and_upcast_attn scale_attn_by_inverse_layer_idx scale_attn_weights sliding_window
    sliding_window_pattern _sliding_window_pattern softmax_scale use_bidirectional_attention
    use_qk_norm use_sliding_window v_head_dim window_size
"""
# Norms, activations, how the parts of a layer are wired, and what states are multiplied by.
_LAYERS = """
    activation activation_function apply_residual_connection_post_layernorm dim_model_base
    do_layer_norm_before embedding_multiplier emb_scale final_logit_softcapping hidden_act
    hidden_activation layer_norm_eps layer_norm_epsilon learned_pos_emb lm_head_multiplier
    logit_scale logits_scaling mlp_hidden_act model_type no_rope_layer_interval no_rope_layers
    norm_eps norm_epsilon norm_type num_ln_in_parallel_attn parallel_attn
    _remove_final_layer_norm residual_multiplier rms_norm_eps scale_depth scale_emb
    scale_embedding swiglu_limit use_parallel_residual
"""
# Which experts a token goes to, and how they are mixed.
_EXPERTS = """
    decoder_sparse_step expert_layer_offset expert_layer_period first_k_dense_replace
    interleave_moe_layer_step mlp_only_layers moe_k moe_layer_end_index moe_layer_freq
    moe_layer_interval moe_layer_start_index moe_layers moe_normalize_expert_weights
    n_group norm_topk_prob num_experts_per_tok num_experts_per_token routed_scaling_factor
    router_jitter_noise scoring_func topk_group topk_method
"""
# Mixers other than attention.
_STATES = """
    attn_layer_offset attn_layer_period block_types conv_L_cache full_attention_interval
    hybrid_override_pattern layers_block_type linear_conv_kernel_dim linear_key_head_dim
    linear_num_key_heads linear_num_value_heads linear_value_head_dim mamba_chunk_size mamba_d_conv
    mamba_d_head mamba_d_state mamba_dt_rank mamba_expand mamba_n_groups mamba_n_heads n_groups
    rescale_every ssm_multipliers state_size time_step_floor time_step_limit time_step_max
    time_step_min
"""
ENTRIES = frozenset((_ATTENTION + _LAYERS + _EXPERTS + _STATES).split())

# Rotary embedding has been written in several ways; all of them go into one entry.
_ROPE = {
    "rope_theta": "rope_theta",
    "rotary_emb_base": "rope_theta",
    "partial_rotary_factor": "partial_rotary_factor",
    "rotary_pct": "partial_rotary_factor",
    "rotary_dim": "rotary_dim",
    "rope_local_base_freq": "rope_local_base_freq",
    "original_max_position_embeddings": "original_max_position_embeddings",
}
_ROPE_TABLES = ("rope_parameters", "rope_scaling")
ROPE_ENTRIES = frozenset((*_ROPE, *_ROPE_TABLES))
# Entries that are tables of settings of attention.
TABLES = frozenset({"attn_config"})


def computation_of(config: PretrainedConfig) -> dict[str, Any]:
    """The entries of a config that change what is computed, in one form however they are written.

    Of a wrapper (a decoder beside an image encoder, say) those of its text decoder. What is not
    set, or set to no, is left away, so that an entry that a newer transformers adds with a default
    of None or False changes nothing.
    """
    entries = config.get_text_config(decoder=True).to_dict()
    chosen = {name: value for name, value in entries.items() if name in ENTRIES}
    for table in TABLES & entries.keys():
        if isinstance(entries[table], Mapping):
            chosen |= {name: v for name, v in entries[table].items() if name in ENTRIES}
    return without_unset({**chosen, "rope": _rope(entries)})


def described(config: PretrainedConfig) -> str:
    """The same as one text, the same text for the same computation."""
    return json.dumps([VERSION, computation_of(config)], sort_keys=True)


def _rope(entries: Mapping[str, Any]) -> dict[str, Any]:
    rope = {_ROPE[name]: value for name, value in entries.items() if name in _ROPE}
    for table in _ROPE_TABLES:
        rope |= entries.get(table) or {}
    if "type" in rope:  # the older name
        rope.setdefault("rope_type", rope.pop("type"))
    return rope


def without_unset(value: Any) -> Any:
    """A value of JSON without what is not set in it, and with numbers of one kind."""
    if isinstance(value, Mapping):
        pairs = ((str(name), without_unset(each)) for name, each in value.items())
        return {
            name: each
            for name, each in pairs
            if each not in (None, False, {}, []) and (name, each) != ("rope_type", "default")
        }
    if isinstance(value, list | tuple):
        return [without_unset(each) for each in value]
    if isinstance(value, bool | str | None):
        return value
    return float(value) if isinstance(value, int | float) else str(value)
