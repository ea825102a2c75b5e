"""More decoder families: kin of Llama with other norms or experts, and GPTs with slopes for positions (ALiBi)."""

from adaptool.archs.decoders import ATTENTION, EMBEDDING, FINAL_NORM, GATED_MLP, HEAD_NORMS, NORMS, POST_NORM

# Its norms have no weights.
OLMO = EMBEDDING + ATTENTION + GATED_MLP

OLMOE = f"""{EMBEDDING}{ATTENTION}
norm    layers.{{L}}.self_attn.q_norm                  Q
norm    layers.{{L}}.self_attn.k_norm                  K
raw     layers.{{L}}.mlp.gate.weight                   E H
raw     layers.{{L}}.mlp.experts.gate_up_proj          E 2I H
raw     layers.{{L}}.mlp.experts.down_proj             E H I
{NORMS}"""

EXAONE4 = f"""{EMBEDDING}{ATTENTION}{GATED_MLP}{HEAD_NORMS}{POST_NORM}{FINAL_NORM}
norm    layers.{{L}}.post_feedforward_layernorm        H
"""

ARCEE = f"""{EMBEDDING}{ATTENTION}{NORMS}
linear  layers.{{L}}.mlp.up_proj                       I H   bias?mlp_bias
linear  layers.{{L}}.mlp.down_proj                     H I   bias?mlp_bias
"""

GRANITEMOE = f"""{EMBEDDING}{ATTENTION}
raw     layers.{{L}}.block_sparse_moe.router.weight               E H
raw     layers.{{L}}.block_sparse_moe.experts.gate_up_proj        E 2I H
raw     layers.{{L}}.block_sparse_moe.experts.down_proj           E H I
linear  layers.{{L}}.shared_mlp.input_linear           2S H  if:shared_expert
linear  layers.{{L}}.shared_mlp.output_linear          H S   if:shared_expert
{NORMS}"""

# Every head of q and k has a norm of its own.
STABLELM = f"""{EMBEDDING}{ATTENTION}{GATED_MLP}
norm    layers.{{L}}.self_attn.q_layernorm.norms.{{A}}   D    if:qk_layernorm
norm    layers.{{L}}.self_attn.k_layernorm.norms.{{G}}   D    if:qk_layernorm
norm    layers.{{L}}.input_layernorm                   H    bias
norm    layers.{{L}}.post_attention_layernorm          H    bias unless:use_parallel_residual
norm    norm                                         H    bias
"""

BLOOM = """
embed   word_embeddings                              V H
norm    word_embeddings_layernorm                    H      bias
norm    h.{L}.input_layernorm                        H      bias
linear  h.{L}.self_attention.query_key_value         3H H   bias
linear  h.{L}.self_attention.dense                   H H    bias
norm    h.{L}.post_attention_layernorm               H      bias
linear  h.{L}.mlp.dense_h_to_4h                      I H    bias
linear  h.{L}.mlp.dense_4h_to_h                      H I    bias
norm    ln_f                                         H      bias
"""

MPT = """
embed   wte                                          V H
norm    blocks.{L}.norm_1                            H
linear  blocks.{L}.attn.Wqkv                         3H H
linear  blocks.{L}.attn.out_proj                     H H
norm    blocks.{L}.norm_2                            H
linear  blocks.{L}.ffn.up_proj                       I H
linear  blocks.{L}.ffn.down_proj                     H I
norm    norm_f                                       H
"""
