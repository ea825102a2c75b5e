"""The bodies of the decoder families, as tables of modules in the grammar of ``layouts``."""

ATTENTION = """
linear  layers.{L}.self_attn.q_proj                  Q H   bias?attention_bias
linear  layers.{L}.self_attn.k_proj                  K H   bias?attention_bias
linear  layers.{L}.self_attn.v_proj                  K H   bias?attention_bias
linear  layers.{L}.self_attn.o_proj                  H Q   bias?output_bias
"""
GATED_MLP = """
linear  layers.{L}.mlp.gate_proj                     I H   bias?mlp_bias
linear  layers.{L}.mlp.up_proj                       I H   bias?mlp_bias
linear  layers.{L}.mlp.down_proj                     H I   bias?mlp_bias
"""
EMBEDDING = """
embed   embed_tokens                                 V H
"""
INPUT_NORM = """
norm    layers.{L}.input_layernorm                   H
"""
POST_NORM = """
norm    layers.{L}.post_attention_layernorm          H
"""
FINAL_NORM = """
norm    norm                                         H
"""
FEEDFORWARD_NORMS = """
norm    layers.{L}.pre_feedforward_layernorm         H
norm    layers.{L}.post_feedforward_layernorm        H
"""
HEAD_NORMS = """
norm    layers.{L}.self_attn.q_norm                  D
norm    layers.{L}.self_attn.k_norm                  D
"""
NORMS = INPUT_NORM + POST_NORM + FINAL_NORM
LLAMA = EMBEDDING + ATTENTION + GATED_MLP + NORMS

MIXTRAL = f"""{EMBEDDING}{ATTENTION}
raw     layers.{{L}}.mlp.gate.weight                   E H
raw     layers.{{L}}.mlp.experts.gate_up_proj          E 2I H
raw     layers.{{L}}.mlp.experts.down_proj             E H I
{NORMS}"""

QWEN_MOE = f"""{EMBEDDING}{ATTENTION}
norm    layers.{{L}}.self_attn.q_norm                  D       if:head_norms
norm    layers.{{L}}.self_attn.k_norm                  D       if:head_norms
linear  layers.{{L}}.mlp.gate_proj                     I H     unless:sparse_layers
linear  layers.{{L}}.mlp.up_proj                       I H     unless:sparse_layers
linear  layers.{{L}}.mlp.down_proj                     H I     unless:sparse_layers
raw     layers.{{L}}.mlp.gate.weight                   E H     if:sparse_layers
raw     layers.{{L}}.mlp.experts.gate_up_proj          E 2M H  if:sparse_layers
raw     layers.{{L}}.mlp.experts.down_proj             E H M   if:sparse_layers
linear  layers.{{L}}.mlp.shared_expert.gate_proj       S H     if:sparse_layers if:shared_expert
linear  layers.{{L}}.mlp.shared_expert.up_proj         S H     if:sparse_layers if:shared_expert
linear  layers.{{L}}.mlp.shared_expert.down_proj       H S     if:sparse_layers if:shared_expert
linear  layers.{{L}}.mlp.shared_expert_gate            1 H     if:sparse_layers if:shared_expert
{NORMS}"""

# The norms of q and k span all heads at once, and the layer norms come after attention and MLP, not before.
OLMO2 = f"""{EMBEDDING}{ATTENTION}{GATED_MLP}{POST_NORM}{FINAL_NORM}
norm    layers.{{L}}.self_attn.q_norm                  Q
norm    layers.{{L}}.self_attn.k_norm                  K
norm    layers.{{L}}.post_feedforward_layernorm        H
"""

COHERE = f"""{EMBEDDING}{ATTENTION}{GATED_MLP}{INPUT_NORM}{FINAL_NORM}
norm    layers.{{L}}.self_attn.q_norm                  A D  if:use_qk_norm
norm    layers.{{L}}.self_attn.k_norm                  G D  if:use_qk_norm
"""

PHI = f"""{EMBEDDING}
linear  layers.{{L}}.self_attn.q_proj                  Q H  bias
linear  layers.{{L}}.self_attn.k_proj                  K H  bias
linear  layers.{{L}}.self_attn.v_proj                  K H  bias
linear  layers.{{L}}.self_attn.dense                   H Q  bias
norm    layers.{{L}}.self_attn.q_layernorm             D    bias if:qk_layernorm
norm    layers.{{L}}.self_attn.k_layernorm             D    bias if:qk_layernorm
linear  layers.{{L}}.mlp.fc1                           I H  bias
linear  layers.{{L}}.mlp.fc2                           H I  bias
norm    layers.{{L}}.input_layernorm                   H    bias
norm    final_layernorm                              H    bias
"""

PHI3 = f"""{EMBEDDING}
linear  layers.{{L}}.self_attn.qkv_proj                QKV H
linear  layers.{{L}}.self_attn.o_proj                  H Q
linear  layers.{{L}}.mlp.gate_up_proj                  2I H
linear  layers.{{L}}.mlp.down_proj                     H I
{NORMS}"""

STARCODER2 = f"""{EMBEDDING}{ATTENTION}
linear  layers.{{L}}.mlp.c_fc                          I H  bias?use_bias
linear  layers.{{L}}.mlp.c_proj                        H I  bias?use_bias
norm    layers.{{L}}.input_layernorm                   H    bias
norm    layers.{{L}}.post_attention_layernorm          H    bias
norm    norm                                         H    bias
"""

GPT2 = """
embed   wte                                          V H
embed   wpe                                          P H
norm    h.{L}.ln_1                                   H      bias
conv1d  h.{L}.attn.c_attn                            H 3H   bias
conv1d  h.{L}.attn.c_proj                            H H    bias
norm    h.{L}.ln_2                                   H      bias
conv1d  h.{L}.crossattention.c_attn                  H 2H   bias if:add_cross_attention
conv1d  h.{L}.crossattention.q_attn                  H H    bias if:add_cross_attention
conv1d  h.{L}.crossattention.c_proj                  H H    bias if:add_cross_attention
norm    h.{L}.ln_cross_attn                          H      bias if:add_cross_attention
conv1d  h.{L}.mlp.c_fc                               H I    bias
conv1d  h.{L}.mlp.c_proj                             I H    bias
norm    ln_f                                         H      bias
"""

GPT_NEOX = """
embed   embed_in                                     V H
norm    layers.{L}.input_layernorm                   H      bias
norm    layers.{L}.post_attention_layernorm          H      bias
linear  layers.{L}.attention.query_key_value         3H H   bias?attention_bias
linear  layers.{L}.attention.dense                   H H    bias?attention_bias
linear  layers.{L}.mlp.dense_h_to_4h                 I H    bias
linear  layers.{L}.mlp.dense_4h_to_h                 H I    bias
norm    final_layer_norm                             H      bias
"""

FALCON = """
embed   word_embeddings                              V H
linear  h.{L}.self_attention.query_key_value         QKV H  bias?use_bias
linear  h.{L}.self_attention.dense                   H H    bias?use_bias
linear  h.{L}.mlp.dense_h_to_4h                      I H    bias?use_bias
linear  h.{L}.mlp.dense_4h_to_h                      H I    bias?use_bias
norm    h.{L}.ln_attn                                H      bias if:two_norms
norm    h.{L}.ln_mlp                                 H      bias if:two_norms
norm    h.{L}.input_layernorm                        H      bias unless:two_norms
norm    h.{L}.post_attention_layernorm               H      bias unless:parallel_attn
norm    ln_f                                         H      bias
"""

# W is the width of the word embedding, which in the 350M model is not the hidden size.
OPT = """
embed   decoder.embed_tokens                         V W
embed   decoder.embed_positions                      P H
linear  decoder.project_in                           H W    if:projected
linear  decoder.project_out                          W H    if:projected
linear  decoder.layers.{L}.self_attn.k_proj          H H    bias?enable_bias
linear  decoder.layers.{L}.self_attn.v_proj          H H    bias?enable_bias
linear  decoder.layers.{L}.self_attn.q_proj          H H    bias?enable_bias
linear  decoder.layers.{L}.self_attn.out_proj        H H    bias?enable_bias
linear  decoder.layers.{L}.fc1                       I H    bias?enable_bias
linear  decoder.layers.{L}.fc2                       H I    bias?enable_bias
norm    decoder.layers.{L}.self_attn_layer_norm      H      bias if:layer_norm_elementwise_affine
norm    decoder.layers.{L}.final_layer_norm          H      bias if:layer_norm_elementwise_affine
norm    decoder.final_layer_norm                     H      bias if:layer_norm_elementwise_affine if:final_norm
"""
