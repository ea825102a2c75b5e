"""Where models of several towers name tensors otherwise on disk than at run time: disk name, then runtime name.

Their checkpoints say ``language_model.model.layers``; since transformers 4.52 the module is
``model.language_model.layers``. An adapter may come from before or after. The grammar is that of ``renames``.
"""

_TOWERS = """
        ^language_model.model                   ^model.language_model
        ^language_model.lm_head                 ^lm_head
        ^{vision,image,video,audio}_tower       ^model.{1}_tower
        ^multi_modal_projector                  ^model.multi_modal_projector
        ^image_newline                          ^model.image_newline
"""
_OMNI = """
        ^model                                  ^model.language_model
        ^visual                                 ^model.visual
        ^audio_tower                            ^model.audio_tower
"""

MULTIMODAL = {
    "llava vipllava aria paligemma aya_vision got_ocr2 gemma3 internvl mistral3 pp_chart2table llava_next "
    "llava_next_video llava_onevision video_llava qwen2_audio voxtral voxtral_realtime audioflamingo3 musicflamingo "
    "glmasr": _TOWERS,
    "mllama": f"""{_TOWERS}
        ^vision_model                           ^model.vision_model
    """,
    "fuyu": f"""{_TOWERS}
        ^vision_embed_tokens                    ^model.vision_embed_tokens
    """,
    "granite_speech granite_speech_plus": f"""{_TOWERS}
        ^encoder                                ^model.encoder
        ^projector                              ^model.projector
    """,
    "vibevoice_asr": f"""{_TOWERS}
        ^{{acoustic,semantic}}_tokenizer_encoder  ^model.{{1}}_tokenizer_encoder
    """,
    "=llava =vipllava =aria =paligemma =aya_vision =got_ocr2 =gemma3 =internvl =mistral3 =llava_next =video_llava": """
        ^language_model.model                   ^language_model
    """,
    "shieldgemma2": """
        ^model.model.language_model.model       ^model.model.language_model
    """,
    "emu3": """
        ^text_model.model                       ^model.text_model
        ^text_model.lm_head                     ^lm_head
        ^vqmodel                                ^model.vqmodel
    """,
    "qwen2_vl qwen2_5_vl": """
        ^model                                  ^model.language_model
        ^visual                                 ^model.visual
    """,
    "=qwen2_5_omni_thinker =qwen3_omni_moe_thinker": """
        ^thinker                                ^
    """,
    "qwen2_5_omni_thinker qwen3_omni_moe_thinker": _OMNI,
    "qwen2_5_omni qwen3_omni_moe": """
        ^thinker.model                          ^thinker.model.language_model
        ^thinker.visual                         ^thinker.model.visual
        ^thinker.audio_tower                    ^thinker.model.audio_tower
    """,
    "paddleocr_vl": """
        ^model                                  ^model.language_model
        ^mlp_AR                                 ^model.projector
        ^visual                                 ^model.visual
    """,
    # The retrieval models keep a whole vision-language model under one more name.
    "colpali": """
        ^vlm.language_model.model               ^vlm.model.language_model
        ^vlm.language_model.lm_head             ^vlm.lm_head
        ^vlm.vision_tower                       ^vlm.model.vision_tower
        ^vlm.multi_modal_projector              ^vlm.model.multi_modal_projector
        ^vlm.language_model.model               ^vlm.language_model
    """,
    "colqwen2": """
        ^vlm.model.{language_model,visual}      ^vlm.{1}
    """,
    "=shieldgemma2": """
        ^language_model.model                   ^model.model.language_model
        ^language_model.lm_head                 ^model.lm_head
        ^vision_tower                           ^model.model.vision_tower
        ^multi_modal_projector                  ^model.model.multi_modal_projector
    """,
    "kimi_k25": """
        ^language_model.model                   ^model.language_model
        ^language_model.lm_head                 ^lm_head
        ^mm_projector.proj.0                    ^model.mm_projector.in_proj
        ^mm_projector.proj.2                    ^model.mm_projector.out_proj
        ^mm_projector                           ^model.mm_projector
        ^vision_tower.encoder                   ^model.vision_tower
        ^vision_tower.patch_embed               ^model.vision_tower.patch_embed
        ^model.vision_tower.blocks              ^model.vision_tower.layers
        vision_tower.layers.{n}.norm1           vision_tower.layers.{n}.norm2
        vision_tower.layers.{n}.norm0           vision_tower.layers.{n}.norm1
        vision_tower.layers.{n}.mlp.fc1         vision_tower.layers.{n}.mlp.fc2
        vision_tower.layers.{n}.mlp.fc0         vision_tower.layers.{n}.mlp.fc1
        vision_tower.layers.{n}.wo              vision_tower.layers.{n}.attn.proj
        patch_embed.pos_emb.weight              patch_embed.pos_emb.position_embeddings
    """,
    "minimax_m3_vl": """
        ^language_model.lm_head                 ^lm_head
        ^language_model.model                   ^model.language_model
        ^vision_tower.vision_model.embeddings.patch_embedding  ^model.vision_tower.embeddings.proj
        ^vision_tower.vision_model.encoder.layers  ^model.vision_tower.layers
        ^vision_tower.vision_model.pre_layrnorm  ^model.vision_tower.pre_layrnorm
        ^multi_modal_projector.linear_{n}       ^model.multi_modal_projector.linear_{n}
        ^patch_merge_mlp.linear_{n}             ^model.multi_modal_projector.merge_linear_{n}
        block_sparse_moe.e_score_correction_bias  mlp.gate.e_score_correction_bias
        block_sparse_moe.{experts,gate,shared_experts}  mlp.{1}
        self_attn.index_{q,k}_{proj,norm}       self_attn.indexer.{1}_{2}
    """,
    "hunyuan_vl": """
        ^model                                  ^model.language_model
        mlp.dense_h_to_4h                       mlp.fc1
        mlp.dense_4h_to_h                       mlp.fc2
        ^vit.layers.{n}.input_layernorm         ^vit.layers.{n}.layer_norm1
        ^vit.layers.{n}.post_attention_layernorm  ^vit.layers.{n}.layer_norm2
        ^vit.perceive.proj.0                    ^vit.perceive.proj_conv
        ^vit.perceive.proj.2                    ^vit.perceive.proj_out
        ^vit.perceive                           ^vit.patch_merger
        ^vit                                    ^model.vision_tower
    """,
    "gemma4_unified": """
        embed_vision.embedding_projection       embed_vision.multimodal_embedder.embedding_projection
        vision_embedder.{patch_ln1,patch_dense,patch_ln2,pos_embedding,pos_norm}  embed_vision.{1}
    """,
    "ernie4_5_vl_moe": """
        vision_model                            vision_tower
        {spatial,temporal}_linear.0             {1}_linear.fc1
        {spatial,temporal}_linear.2             {1}_linear.fc2
        {spatial,temporal}_linear.3             {1}_linear.ln
        ^model.{embed_tokens,layers,norm}       ^model.language_model.{1}
    """,
    "molmo2": """
        vision_backbone.image_vit               vision_tower
        vision_tower.transformer.resblocks      vision_tower.layers
        vision_backbone.{image_pooling_2d,image_projector}  multi_modal_projector.{1}
        vision_tower.layers.{n}.attention       vision_tower.layers.{n}.self_attn
        vision_tower.layers.{n}.attention_norm  vision_tower.layers.{n}.layer_norm1
        vision_tower.layers.{n}.ffn_norm        vision_tower.layers.{n}.layer_norm2
        vision_tower.layers.{n}.feed_forward.w1  vision_tower.layers.{n}.mlp.fc1
        vision_tower.layers.{n}.feed_forward.w2  vision_tower.layers.{n}.mlp.fc2
        vision_tower.layers.{n}.self_attn.w{q,k,v,o}  vision_tower.layers.{n}.self_attn.{2}_proj
        image_pooling_2d.w{q,k,v,o}             image_pooling_2d.{1}_proj
        image_projector.w1                      image_projector.gate_proj
        image_projector.w2                      image_projector.down_proj
        image_projector.w3                      image_projector.up_proj
        transformer                             language_model
        language_model.blocks                   language_model.layers
        language_model.ln_f                     language_model.norm
        language_model.layers.{n}.attn_norm     language_model.layers.{n}.input_layernorm
        language_model.layers.{n}.ff_norm       language_model.layers.{n}.post_attention_layernorm
        language_model.layers.{n}.self_attn.attn_out  language_model.layers.{n}.self_attn.o_proj
        language_model.layers.{n}.mlp.ff_out    language_model.layers.{n}.mlp.down_proj
    """,
    "=molmo2_text": """
        layers.{n}.attn_norm                    layers.{n}.input_layernorm
        layers.{n}.ff_norm                      layers.{n}.post_attention_layernorm
        self_attn.attn_out                      self_attn.o_proj
        mlp.ff_out                              mlp.down_proj
    """,
    "deepseek_ocr2": """
        model.{embed_tokens,layers,norm}        model.language_model.{1}
        qwen2_model.model.model                 vision_tower.vision_encoder
        qwen2_model.query_{n}                   vision_tower.query_{n}_resolution
        projector.layers                        multi_modal_projector
        view_seperator                          view_separator
        sam_model.blocks.{n}.norm{n}            vision_tower.sam_encoder.layers.{n}.layer_norm{n}
        sam_model.blocks                        vision_tower.sam_encoder.layers
        sam_model.patch_embed.proj              vision_tower.sam_encoder.patch_embed.projection
        sam_model.neck.0                        vision_tower.sam_encoder.neck.conv1
        sam_model.neck.1                        vision_tower.sam_encoder.neck.layer_norm1
        sam_model.neck.2                        vision_tower.sam_encoder.neck.conv2
        sam_model.neck.3                        vision_tower.sam_encoder.neck.layer_norm2
        sam_model.net_2                         vision_tower.sam_encoder.proj.conv1
        sam_model.net_3                         vision_tower.sam_encoder.proj.conv2
        sam_model                               vision_tower.sam_encoder
    """,
    "lfm3_vl lfm3_vl_vision": """
        patchifier                              patch_embed
        q_layernorm                             q_norm
        k_layernorm                             k_norm
    """,
    "hyperclovax_vision_v2": """
        ^model.language_model.lm_head           ^lm_head
        ^model.vision_projector                 ^model.projector
        ^model.language_model.model             ^model.language_model
    """,
    "cosmos3_omni": """
        ^{layers,embed_tokens,norm}             ^model.language_model.{1}
        ^{blocks,merger,patch_embed,pos_embed,deepstack_merger_list}  ^model.visual.{1}
        self_attn.to_{q,k,v}                    self_attn.{1}_proj
        self_attn.to_out                        self_attn.o_proj
        self_attn.norm_{q,k}                    self_attn.{1}_norm
    """,
    "pi0": """
        ^paligemma_with_expert.paligemma.model  ^model.vlm
        ^model.vlm.language_model.model         ^model.vlm.language_model
        ^paligemma_with_expert.gemma_expert.model  ^model.dit
        ^paligemma_with_expert.gemma_expert.lm_head  ^model.dit.embed_tokens
        ^paligemma_with_expert.paligemma.lm_head  ^model.vlm.language_model.embed_tokens
        ^{state_proj,action_in_proj,action_time_mlp_in,action_time_mlp_out}  ^embed_action_time.{1}
    """,
    "mimi": """
        {encoder_transformer,downsample}        encoder.{1}
        {decoder_transformer,upsample}          decoder.{1}
        encoder.layers                          encoder.encoder_seanet.layers
        decoder.layers                          decoder.decoder_seanet.layers
    """,
    "=mimi_encoder =mimi_decoder": """
        ^encoder.layers                         ^encoder_seanet.layers
        ^decoder.layers                         ^decoder_seanet.layers
    """,
    "cohere_asr": """
        encoder.pre_encode.conv                 encoder.subsampling.layers
        encoder.pre_encode.out                  encoder.subsampling.linear
        transf_decoder._embedding.position_embedding.pos_enc  decoder.pos_emb.weight
        transf_decoder._embedding.token_embedding  decoder.embed_tokens
        transf_decoder._embedding.layer_norm    decoder.embedding_layernorm
        transf_decoder._decoder.final_layer_norm  decoder.norm
        transf_decoder._decoder.layers          decoder.layers
        encoder_decoder_proj                    decoder.proj
        encoder.layers.{n}.self_attn.linear_{q,k,v}  encoder.layers.{n}.self_attn.{2}_proj
        encoder.layers.{n}.self_attn.linear_out  encoder.layers.{n}.self_attn.o_proj
        encoder.layers.{n}.self_attn.linear_pos  encoder.layers.{n}.self_attn.relative_k_proj
        encoder.layers.{n}.self_attn.pos_bias_{u,v}  encoder.layers.{n}.self_attn.bias_{2}
        decoder.layers.{n}.first_sub_layer      decoder.layers.{n}.self_attn
        decoder.layers.{n}.second_sub_layer     decoder.layers.{n}.encoder_attn
        decoder.layers.{n}.{self,encoder}_attn.query_net  decoder.layers.{n}.{2}_attn.q_proj
        decoder.layers.{n}.{self,encoder}_attn.key_net  decoder.layers.{n}.{2}_attn.k_proj
        decoder.layers.{n}.{self,encoder}_attn.value_net  decoder.layers.{n}.{2}_attn.v_proj
        decoder.layers.{n}.{self,encoder}_attn.out_projection  decoder.layers.{n}.{2}_attn.o_proj
        third_sub_layer.dense_in                mlp.fc1
        third_sub_layer.dense_out               mlp.fc2
        layer_norm_1                            input_layernorm
        layer_norm_2                            post_attention_layernorm
        layer_norm_3                            final_layernorm
        conv.batch_norm                         conv.norm
        log_softmax.mlp.layer0                  proj_out
    """,
}
