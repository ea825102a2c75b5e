"""Where text models' tensors are named otherwise on disk than at run time: disk name, then runtime name.

The grammar is that of ``renames``. A block's key lists the model types it holds for; rows apply from the top down
to a disk name and from the bottom up to a runtime name, so a row may build on those above it.
"""

TEXT = {
    "gpt_neox": """
        ^embed_out                              ^lm_head
    """,
    "mixtral minimax kimi_linear": """
        block_sparse_moe                        mlp
    """,
    "minimax_m2": """
        block_sparse_moe.e_score_correction_bias  mlp.e_score_correction_bias
        block_sparse_moe                        mlp
    """,
    "phimoe": """
        block_sparse_moe                        mlp
        mlp.gate.weight                         mlp.router.weight
    """,
    "granitemoe granitemoeshared granitemoehybrid": """
        block_sparse_moe.input_linear.weight    block_sparse_moe.experts.gate_up_proj
        block_sparse_moe.output_linear.weight   block_sparse_moe.experts.down_proj
        block_sparse_moe.router.layer.weight    block_sparse_moe.router.weight
    """,
    "aria_text": """
        mlp.experts.fc1.weight                  mlp.experts.gate_up_proj
        mlp.experts.fc2.weight                  mlp.experts.down_proj
    """,
    "nemotron_h": """
        ^backbone                               ^model
    """,
    "ernie4_5_moe": """
        mlp.moe_statics                         mlp.gate.moe_statics
    """,
    "exaone_moe": """
        mlp.e_score_correction_bias             mlp.gate.e_score_correction_bias
    """,
    "kolibri1": """
        moe.router.expert_bias                  mlp.gate.e_score_correction_bias
        post_attn_norm                          post_self_attn_layernorm
        post_ffn_norm                           post_mlp_layernorm
    """,
    "mimo_v2_flash": """
        self_attn.attention_sink_bias           self_attn.sinks
    """,
    "flint": """
        self_attn.softmax_offset                self_attn.sinks
    """,
    "hy_v3": """
        mlp.router.gate.weight                  mlp.gate.weight
        mlp.expert_bias                         mlp.e_score_correction_bias
        mlp.shared_mlp                          mlp.shared_experts
    """,
    "laguna": """
        mlp.experts.e_score_correction_bias     mlp.gate.e_score_correction_bias
        mlp.shared_expert                       mlp.shared_experts
    """,
    "axk1": """
        layers.{n}.post_mlp_layernorm           layers.{n}.mlp.post_mlp_layernorm
    """,
    "axk2": """
        W_down                                  mlp.fc1
        W_up                                    mlp.fc2
        self_attn.q_b_proj                      self_attn.q_gate_proj
    """,
    "kimi_linear glm5_next glm5_next_text": """
        self_attn.f_a_proj                      self_attn.forget_gate.f_a_proj
        self_attn.f_b_proj                      self_attn.forget_gate.f_b_proj
        self_attn.dt_bias                       self_attn.forget_gate.dt_bias
        self_attn.A_log                         self_attn.forget_gate.A_log
    """,
    "glm5_next glm5_next_text": """
        hc_attn_{fn,base,scale}                 attn_hc.{1}
        hc_ffn_{fn,base,scale}                  ffn_hc.{1}
    """,
    "bailing_hybrid": """
        ^model.word_embeddings                  ^model.embed_tokens
        layers.{n}.attention                    layers.{n}.self_attn
        self_attn.f_proj                        self_attn.forget_gate.f_proj
        self_attn.dt_bias                       self_attn.forget_gate.dt_bias
        self_attn.A_log                         self_attn.forget_gate.A_log
        self_attn.dense                         self_attn.o_proj
        mlp.gate.expert_bias                    mlp.gate.e_score_correction_bias
    """,
    "deepseek_v4": """
        ^embed                                  ^model.embed_tokens
        ^head                                   ^lm_head
        ^layers                                 ^model.layers
        ^norm                                   ^model.norm
        ^hc_head_{fn,base,scale}                ^model.hc_head.hc_{1}
        hc_attn_{fn,base,scale}                 attn_hc.{1}
        hc_ffn_{fn,base,scale}                  ffn_hc.{1}
        attn_norm                               input_layernorm
        ffn_norm                                post_attention_layernorm
        attn.attn_sink                          attn.sinks
        attn.indexer.compressor                 attn.compressor.indexer
        attn.indexer.weights_proj               attn.compressor.indexer.scorer.weights_proj
        attn.indexer.wq_b                       attn.compressor.indexer.q_b_proj
        compressor.norm                         compressor.kv_norm
        compressor.indexer.norm                 compressor.indexer.kv_norm
        ape                                     position_bias
        wq_a                                    q_a_proj
        attn.wq_b                               attn.q_b_proj
        wkv                                     kv_proj
        wgate                                   gate_proj
        wo_a                                    o_a_proj
        wo_b                                    o_b_proj
        attn.q_norm                             attn.q_a_norm
        attn.norm                               attn.kv_norm
        layers.{n}.attn                         layers.{n}.self_attn
        layers.{n}.ffn                          layers.{n}.mlp
        mlp.gate.bias                           mlp.gate.e_score_correction_bias
        shared_experts.w1                       shared_experts.gate_proj
        shared_experts.w2                       shared_experts.down_proj
        shared_experts.w3                       shared_experts.up_proj
    """,
    "olmo_hybrid": """
        attention_layer_norm                    input_layernorm
        feedforward_layer_norm                  post_attention_layernorm
    """,
    "=qwen3_5_text =qwen3_5_moe_text =gemma3n_text =qwen4_exp_text": """
        ^model.language_model                   ^model
    """,
    "lfm3": """
        self_attn.gate_proj                     self_attn.g_proj
    """,
    "nomic_bert": """
        encoder.layers                          layers
        emb_ln                                  embeddings.LayerNorm
        attn.out_proj                           self_attn.o_proj
        mlp.fc11                                mlp.up_proj
        mlp.fc12                                mlp.gate_proj
        mlp.fc2                                 mlp.down_proj
        norm1                                   post_attention_layernorm
        norm2                                   post_mlp_layernorm
    """,
    "gte": """
        encoder.layer                           layers
        attention.o_proj                        self_attn.o_proj
        attn_ln                                 post_attention_layernorm
        mlp_ln                                  post_mlp_layernorm
        lm_head.norm                            lm_head.layer_norm
    """,
    "=gte": """
        ^new                                    ^gte
    """,
    "jina_embeddings_v3": """
        emb_ln                                  embeddings.LayerNorm
        encoder.layers                          layers
        mixer.out_proj                          self_attn.o_proj
        norm1                                   post_attention_layernorm
        norm2                                   post_mlp_layernorm
    """,
    "hrm_text": """
        attn.o_proj                             self_attn.o_proj
    """,
    "hy_v4": """
        hc_pre.hc_attn_layer.hc_{fn,base,scale}  attn_hc.{1}
        hc_pre.hc_mlp_layer.hc_{fn,base,scale}  ffn_hc.{1}
        hc_head_{fn,base,scale}                 hc_{1}
        learnable_sink_param                    sinks
        linear_gate                             gate_proj
    """,
    "timesfm2_5": """
        ff0                                     fc1
        ff1                                     fc2
    """,
    "t5gemma2_encoder t5gemma2": """
        encoder.embed_tokens                    encoder.text_model.embed_tokens
        encoder.norm                            encoder.text_model.norm
        encoder.layers                          encoder.text_model.layers
    """,
}
