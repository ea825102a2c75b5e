"""The bodies and heads of BERT's kin, of T5 and of SigLIP's eyes: tables of modules in the grammar of ``layouts``."""

BERT = """
embed   embeddings.word_embeddings                   V H
embed   embeddings.position_embeddings               P H
embed   embeddings.token_type_embeddings             T H
norm    embeddings.LayerNorm                         H      bias
linear  encoder.layer.{L}.attention.self.query       H H    bias
linear  encoder.layer.{L}.attention.self.key         H H    bias
linear  encoder.layer.{L}.attention.self.value       H H    bias
linear  encoder.layer.{L}.attention.output.dense     H H    bias
norm    encoder.layer.{L}.attention.output.LayerNorm H      bias
linear  encoder.layer.{L}.intermediate.dense         I H    bias
linear  encoder.layer.{L}.output.dense               H I    bias
norm    encoder.layer.{L}.output.LayerNorm           H      bias
"""

DISTILBERT = """
embed   embeddings.word_embeddings                   V H
embed   embeddings.position_embeddings               P H
norm    embeddings.LayerNorm                         H      bias
linear  transformer.layer.{L}.attention.q_lin        H H    bias
linear  transformer.layer.{L}.attention.k_lin        H H    bias
linear  transformer.layer.{L}.attention.v_lin        H H    bias
linear  transformer.layer.{L}.attention.out_lin      H H    bias
norm    transformer.layer.{L}.sa_layer_norm          H      bias
linear  transformer.layer.{L}.ffn.lin1               I H    bias
linear  transformer.layer.{L}.ffn.lin2               H I    bias
norm    transformer.layer.{L}.output_layer_norm      H      bias
"""

NOMIC_BERT = """
embed   embeddings.word_embeddings                   V H
embed   embeddings.token_type_embeddings             T H
norm    embeddings.LayerNorm                         H      bias
linear  layers.{L}.self_attn.q_proj                  Q H
linear  layers.{L}.self_attn.k_proj                  Q H
linear  layers.{L}.self_attn.v_proj                  Q H
linear  layers.{L}.self_attn.o_proj                  H Q
norm    layers.{L}.post_attention_layernorm          H      bias
linear  layers.{L}.mlp.gate_proj                     I H
linear  layers.{L}.mlp.up_proj                       I H
linear  layers.{L}.mlp.down_proj                     H I
norm    layers.{L}.post_mlp_layernorm                H      bias
"""

T5 = """
embed   shared                                                    V H
linear  encoder.block.{L}.layer.0.SelfAttention.q                 Q H
linear  encoder.block.{L}.layer.0.SelfAttention.k                 Q H
linear  encoder.block.{L}.layer.0.SelfAttention.v                 Q H
linear  encoder.block.{L}.layer.0.SelfAttention.o                 H Q
embed   encoder.block.0.layer.0.SelfAttention.relative_attention_bias  B A
norm    encoder.block.{L}.layer.0.layer_norm                      H
linear  encoder.block.{L}.layer.1.DenseReluDense.wi               I H  unless:gated
linear  encoder.block.{L}.layer.1.DenseReluDense.wi_0             I H  if:gated
linear  encoder.block.{L}.layer.1.DenseReluDense.wi_1             I H  if:gated
linear  encoder.block.{L}.layer.1.DenseReluDense.wo               H I
norm    encoder.block.{L}.layer.1.layer_norm                      H
norm    encoder.final_layer_norm                                  H
"""
T5_DECODER = """
linear  decoder.block.{N}.layer.0.SelfAttention.q                 Q H
linear  decoder.block.{N}.layer.0.SelfAttention.k                 Q H
linear  decoder.block.{N}.layer.0.SelfAttention.v                 Q H
linear  decoder.block.{N}.layer.0.SelfAttention.o                 H Q
embed   decoder.block.0.layer.0.SelfAttention.relative_attention_bias  B A
norm    decoder.block.{N}.layer.0.layer_norm                      H
linear  decoder.block.{N}.layer.1.EncDecAttention.q               Q H
linear  decoder.block.{N}.layer.1.EncDecAttention.k               Q H
linear  decoder.block.{N}.layer.1.EncDecAttention.v               Q H
linear  decoder.block.{N}.layer.1.EncDecAttention.o               H Q
norm    decoder.block.{N}.layer.1.layer_norm                      H
linear  decoder.block.{N}.layer.2.DenseReluDense.wi               I H  unless:gated
linear  decoder.block.{N}.layer.2.DenseReluDense.wi_0             I H  if:gated
linear  decoder.block.{N}.layer.2.DenseReluDense.wi_1             I H  if:gated
linear  decoder.block.{N}.layer.2.DenseReluDense.wo               H I
norm    decoder.block.{N}.layer.2.layer_norm                      H
norm    decoder.final_layer_norm                                  H
"""

SIGLIP_VISION = """
raw     vision_tower.embeddings.patch_embedding.weight            H C R R
raw     vision_tower.embeddings.patch_embedding.bias              H
embed   vision_tower.embeddings.position_embedding                P H
linear  vision_tower.encoder.layers.{L}.self_attn.q_proj          H H    bias
linear  vision_tower.encoder.layers.{L}.self_attn.k_proj          H H    bias
linear  vision_tower.encoder.layers.{L}.self_attn.v_proj          H H    bias
linear  vision_tower.encoder.layers.{L}.self_attn.out_proj        H H    bias
norm    vision_tower.encoder.layers.{L}.layer_norm1               H      bias
norm    vision_tower.encoder.layers.{L}.layer_norm2               H      bias
linear  vision_tower.encoder.layers.{L}.mlp.fc1                   I H    bias
linear  vision_tower.encoder.layers.{L}.mlp.fc2                   H I    bias
norm    vision_tower.post_layernorm                               H      bias
raw     vision_tower.head.probe                                   1 1 H  if:vision_use_head
raw     vision_tower.head.attention.in_proj_weight                3H H   if:vision_use_head
raw     vision_tower.head.attention.in_proj_bias                  3H     if:vision_use_head
linear  vision_tower.head.attention.out_proj                      H H    bias if:vision_use_head
norm    vision_tower.head.layernorm                               H      bias if:vision_use_head
linear  vision_tower.head.mlp.fc1                                 I H    bias if:vision_use_head
linear  vision_tower.head.mlp.fc2                                 H I    bias if:vision_use_head
raw     multi_modal_projector.mm_input_projection_weight          H X
norm    multi_modal_projector.mm_soft_emb_norm                    H
"""

BERT_LM_HEAD = """
raw     cls.predictions.bias                         V
linear  cls.predictions.transform.dense              H H    bias
norm    cls.predictions.transform.LayerNorm          H      bias
linear  cls.predictions.decoder                      V H    bias unless:tie_word_embeddings
"""
ROBERTA_LM_HEAD = """
raw     lm_head.bias                                 V
linear  lm_head.dense                                H H    bias
norm    lm_head.layer_norm                           H      bias
linear  lm_head.decoder                              V H    bias unless:tie_word_embeddings
"""
ROBERTA_CLASSIFIER = """
linear  classifier.dense                             H H    bias
linear  classifier.out_proj                          Y H    bias
"""
DISTILBERT_LM_HEAD = """
linear  vocab_transform                              H H    bias
norm    vocab_layer_norm                             H      bias
linear  vocab_projector                              V H    bias unless:tie_word_embeddings
raw     vocab_projector.bias                         V      if:tie_word_embeddings
"""
DISTILBERT_CLASSIFIER = """
linear  pre_classifier                               H H    bias
linear  classifier                                   Y H    bias
"""
NOMIC_LM_HEAD = """
raw     cls.predictions.bias                         V
linear  cls.predictions.transform.dense              H H    bias
norm    cls.predictions.transform.layer_norm         H      bias
linear  cls.predictions.decoder                      V H    bias unless:tie_word_embeddings
"""
