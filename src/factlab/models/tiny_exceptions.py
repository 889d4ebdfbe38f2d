"""What shrinking by names does not get right in a family's tiny config, and why.

`tiny_configs` reads this. The key is a model type, of a whole model or of a part of it. A value of
`...` leaves an entry out, so that the config works it out from the others.
"""

from collections.abc import Mapping
from typing import TypeAlias

Entries: TypeAlias = Mapping[str, object]


def _rope(**more: object) -> dict[str, object]:
    return {"rope_type": "default", "rope_theta": 10000.0, **more}


def _sections(*sections: int, **more: object) -> Entries:
    """Rotary embeddings whose frequencies are shared out among time, height and width."""
    return {"rope_parameters": _rope(mrope_section=list(sections), **more)}


# Heads of 8 dimensions, where the head's size is that of the model over the number of heads and a
# part of each head is rotated: half of 6 dimensions are not whole pairs.
_THREE_HEADS: Entries = {"num_attention_heads": 3, "num_key_value_heads": 3}

_MAMBA_LAYERS = ["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid"]

# The vision tower of SAM: its neck and the layers that make its picture smaller.
_SAM: Entries = {
    "output_channels": 8,
    "num_pos_feats": 4,
    "image_size": 64,
    "window_size": 2,
    "global_attn_indexes": [1],
}

# An autoencoder of pictures.
_VQ: Entries = {
    "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "codebook_size": 16,
    "num_embeddings": 16, "embed_dim": 8, "latent_channels": 8, "attn_resolutions": [],
}  # fmt: skip

EXCEPTIONS: dict[str, Entries] = {
    # --- recurrences whose inner width, heads and head size must fit each other
    "falcon_h1": {"mamba_d_ssm": 48},
    "mamba2": {"head_dim": 12},
    "zamba": {
        # Its tied weights are described as those of one layer and of others.
        "layers_block_type": _MAMBA_LAYERS, "num_hidden_layers": 5, "mamba_dt_rank": 5,
        "attention_hidden_size": 48, "attention_head_dim": 12, "head_dim": ...,
    },
    "zamba2": {
        "layers_block_type": _MAMBA_LAYERS, "num_hidden_layers": 5, "n_mamba_heads": 4,
        "attention_hidden_size": ..., "adapter_rank": 8, "num_key_value_heads": 4,
        "kv_channels": ...,
    },
    "bamba": {"attn_layer_indices": [1, 3], "layers_block_type": ..., "layer_types": ...},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "xlstm": {"num_heads": 4, "chunk_size": 8},
    # --- experts that the defaults leave out
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dots1": {
        "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
    },
    "deepseek_ocr2_text": {
        "num_experts_per_tok": 2, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "num_key_value_heads": 4, "head_dim": ...,
    },
    "diffusion_gemma_text": {
        "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 20, "global_head_dim": 8,
    },
    "qwen2_moe": {"mlp_only_layers": [0]},
    "qwen3_moe": {"mlp_only_layers": [0]},
    "jamba": {
        "attn_layer_period": 4, "attn_layer_offset": 2, "expert_layer_period": 2,
        "expert_layer_offset": 1, "layers_block_type": ..., "layer_types": ...,
        "mlp_layer_types": ..., "num_hidden_layers": 4, "use_mamba_kernels": False,
    },
    "llama4_text": {
        # One dense layer among those with experts, one with no rotation, two that see chunks.
        "interleave_moe_layer_step": 2, "moe_layers": [1, 3], "no_rope_layers": [1, 1, 1, 0],
        "layer_types": ["chunked_attention"] * 3 + ["full_attention"], "num_hidden_layers": 4,
    },
    # --- heads of several sizes
    "gemma3n_text": {
        # The layers that share keys and values need one of their kind that does not.
        "num_kv_shared_layers": 2, "num_hidden_layers": 6,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        "intermediate_size": 56, "activation_sparsity_pattern": [0.95] + [0.0] * 5,
    },
    "gemma4_text": {
        "global_head_dim": 16, "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "gemma4_unified_text": {"global_head_dim": 16},
    "helium": {"head_dim": 6},
    "phi": {"num_attention_heads": 3, "num_key_value_heads": 3},
    "recurrent_gemma": {**_THREE_HEADS, "num_key_value_heads": 1},
    "persimmon": _THREE_HEADS,
    "fuyu": _THREE_HEADS,
    "nemotron": {"num_key_value_heads": 2},
    "xlnet": {"d_head": 6},
    "blt_local_encoder": {"head_dim": ...},
    "blt_local_decoder": {"head_dim": ...},
    "blt_global_transformer": {"head_dim": ...},
    "blt_patcher": {"head_dim": ...},
    # --- rotary embeddings by section
    "qwen2_vl_text": _sections(1, 1, 1),
    "qwen2_5_vl_text": _sections(1, 1, 1),
    "qwen2_5_omni_text": _sections(1, 1, 1),
    "glm4v_text": _sections(1, 1, 1),
    "glm_ocr_text": _sections(1, 1, 1),
    "glm4v_moe_text": {"head_dim": 12, **_sections(1, 1, 1, partial_rotary_factor=0.5)},
    "ernie4_5_vl_moe_text": {"moe_intermediate_size": [20, 12], **_sections(1, 1, 1)},
    "cosmos3_edge_text": _sections(2, 1, 1),
    "hy_v4_vl_text": {
        "qk_rope_head_dim": 8, "head_dim": ..., "qk_head_dim": ..., **_sections(2, 1, 1),
    },
    "paddleocr_vl_text": _sections(2, 1, 1),
    "hunyuan_vl_text": _sections(1, 1, 1, 1),
    "mistral4": {
        "qk_nope_head_dim": 4, "head_dim": ..., "qk_head_dim": ...,
        "rope_parameters": ...,
    },
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": _rope(), "sliding_attention": _rope()},
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    },
    # --- tables of tokens by name, which have to be there
    "chameleon": {"vocabulary_map": {"<image>": 190}},
    "emu3": {"vocabulary_map": {"<image>": 190, "<|extra_200|>": 191}},
    # --- encoders whose decoder is made of other layers
    "reformer": {
        "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [8, 16],
        "attn_layers": ["local", "lsh", "local", "lsh"], "num_buckets": 4, "hash_seed": 0,
    },
    "xmod": {"default_language": "en_XX"},
    "roc_bert": {
        "pronunciation_embed_dim": 8, "pronunciation_vocab_size": 30, "shape_embed_dim": 8,
        "shape_vocab_size": 30,
    },
    "rwkv": {"rescale_every": 2},  # as real ones of more layers have it
    "xlm": {"causal": True},
    # --- sizes by names of their own
    # Its class reads what its config lacks.
    "DbrxAttentionConfig": {"rope_theta": 10000.0, "clip_qkv": 8.0},
    "inkling2_loop_text": {
        "loop_layer_index_start": 2, "loop_layer_index_end": 4, "n_layers_per_attn_res_block": 2,
    },
    "blt": {"encoder_hash_byte_group_vocab": 50},
    "dots3_note_text": {
        # The layers with a sliding window have heads and ranks of their own.
        **{f"swa_{name}": 4 for name in ("num_attention_heads", "num_key_value_heads")},
        **{f"swa_{name}": 12 for name in ("q_lora_rank", "kv_lora_rank")},
        "swa_head_dim": 10, "swa_qk_nope_head_dim": 6, "swa_v_head_dim": 8,
    },
    "glm5_next_text": {"index_topk": 8, "index_kpool": 4},
    "step3p5": {
        "sliding_window": 4, "num_sliding_attention_heads": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "mlp_layer_types": ["dense", "dense", "sparse", "sparse"],
    },
    "mllama_text_model": {"cross_attention_layers": [1, 3], "num_hidden_layers": 5},
    "deepseek_v4": {"head_dim": 8, "o_groups": 2, "o_lora_rank": 5},
    "qwen4_exp_text": {
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "molmo2_adapter": {"vision_feature_layer": [1, 0]},
    "granite4_vision": {
        "deepstack_layer_map": [[0, 1]], "spatial_target_layers": [1],
        "downsample_rate": "1/2", "vision_config": {"hidden_size": 64},
    },
    # --- what sees or hears
    "wavtokenizer_encoder": {"codebook_dim": 32, "codebook_size": 16},
    "apertus1p5": {
        "image_token_offset": 368, "audio_token_offset": 384,
        "vision_config": {"codebook_size": 16},
    },
    "dots3_note_vision_encoder": {
        "mlp_layer_types": ["dense", "dense"], "adapter_in_dim": 32,
    },
    "dots3_note_audio_encoder": {"adapter_input_size": 32},
    "nemotron_h_omni": {
        "vision_config": {
            "video_temporal_patch_size": 2, "image_size": 64, "max_img_size": 64,
        },
        "vision_hidden_size": 32,
    },
    "pp_chart2table_vision": _SAM,
    "qwen3_omni_moe_audio_encoder": {"downsample_hidden_size": 8},
    "phi4_multimodal_audio": {
        "nemo_conv_channels": 8, "ext_pw_out_channel": 8, "depthwise_separable_out_channel": 8,
        "input_size": 16, "nemo_final_size": ...,
    },
    "sam_vision_model": _SAM,
    "got_ocr2_vision": _SAM,
    "deepseek_ocr2_sam_vision_model": {**_SAM, "downsample_channels": [8, 32]},
    "unlimited_ocr_sam_vision_model": {**_SAM, "downsample_channels": [8, 32]},
    "muse_spark_audio": {
        "num_hidden_layers": 2, "patch_sizes": [16, 6], "hidden_sizes": [8, 16], "depths": [1, 1],
    },
    "florence_vision": {
        "embed_dim": [8, 8], "num_heads": [2, 2], "num_groups": [2, 2], "depths": [1, 1],
        "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
    },
    "janus_vqgan": {
        "num_embeddings": 16, "image_token_embed_dim": 24, "base_channels": 32,
        "channel_multiplier": [1, 1], "num_patches": 4,
    },
    "chameleon_vqgan": _VQ,
    "apertus1p5_vision_tokenizer": _VQ,
    "emu3_vqgan": _VQ,
    "hy_v4_vl_vision": {"max_image_size": 64},
    "hunyuan_vl_vision": {"max_image_size": 64},
}  # fmt: skip
