"""Where vision models' tensors are named otherwise on disk than at run time: disk name, then runtime name.

Transformers 5 renamed the modules of ViT and its descendants (``encoder.layer.0.attention.attention.query`` became
``layers.0.attention.q_proj``); the checkpoints kept their names. The grammar is that of ``renames``.
"""

# ViT's block, as its many descendants have it.
_BLOCK = """
        attention.attention.query               attention.q_proj
        attention.attention.key                 attention.k_proj
        attention.attention.value               attention.v_proj
        attention.output.dense                  attention.o_proj
        intermediate.dense                      mlp.fc1
        output.dense                            mlp.fc2
"""
_VIT = f"""{_BLOCK}
        encoder.layer                           layers
"""
_SWIGLU = """
        attention.attention.query               attention.q_proj
        attention.attention.key                 attention.k_proj
        attention.attention.value               attention.v_proj
        attention.output.dense                  attention.o_proj
        mlp.weights_out                         mlp.down_proj
"""
_DETR = """
        backbone.conv_encoder                   backbone
        self_attn.out_proj                      self_attn.o_proj
        encoder_attn.out_proj                   encoder_attn.o_proj
        layers.{n}.fc1                          layers.{n}.mlp.fc1
        layers.{n}.fc2                          layers.{n}.mlp.fc2
"""
_SEGMENTATION = """
        bbox_attention.q_linear                 bbox_attention.q_proj
        bbox_attention.k_linear                 bbox_attention.k_proj
        mask_head.lay1                          mask_head.conv1.conv
        mask_head.gn1                           mask_head.conv1.norm
        mask_head.lay2                          mask_head.conv2.conv
        mask_head.gn2                           mask_head.conv2.norm
        mask_head.adapter1                      mask_head.fpn_stages.0.fpn_adapter
        mask_head.lay3                          mask_head.fpn_stages.0.refine.conv
        mask_head.gn3                           mask_head.fpn_stages.0.refine.norm
        mask_head.adapter2                      mask_head.fpn_stages.1.fpn_adapter
        mask_head.lay4                          mask_head.fpn_stages.1.refine.conv
        mask_head.gn4                           mask_head.fpn_stages.1.refine.norm
        mask_head.adapter3                      mask_head.fpn_stages.2.fpn_adapter
        mask_head.lay5                          mask_head.fpn_stages.2.refine.conv
        mask_head.gn5                           mask_head.fpn_stages.2.refine.norm
        mask_head.out_lay                       mask_head.output_conv
"""
_RT_DETR = """
        self_attn.out_proj                      self_attn.o_proj
        encoder_attn.out_proj                   encoder_attn.o_proj
        encoder.encoder.{n}.layers              encoder.aifi.{n}.layers
"""

VISION = {
    "vit deit ijepa vit_mae vit_msn vivit audio-spectrogram-transformer pixio": _VIT,
    "pixio": """
        norm1                                   layernorm_before
        norm2                                   layernorm_after
    """,
    # Inside another model a backbone's checkpoint says nothing of the level its own class adds.
    "beit": f"""
        backbone.{{embeddings,encoder}}           backbone.beit.{{1}}
        {_VIT}
        layers.{{n}}.attention.attention.relative_position_bias  layers.{{n}}.relative_position_bias
        encoder.relative_position_bias          shared_position_bias
        ^fpn1.0                                 ^fpn.fpn1.conv_transpose1
        ^fpn1.1                                 ^fpn.fpn1.normalization
        ^fpn1.3                                 ^fpn.fpn1.conv_transpose2
        ^fpn2.0                                 ^fpn.fpn2
        decode_head.psp_modules.{{n}}.1.conv      decode_head.psp_modules.blocks.{{n}}.conv.convolution
        decode_head.psp_modules.{{n}}.1.bn        decode_head.psp_modules.blocks.{{n}}.conv.normalization
        decode_head.bottleneck.conv             decode_head.psp_bottleneck.convolution
        decode_head.bottleneck.bn               decode_head.psp_bottleneck.normalization
        auxiliary_head.convs.{{n}}.conv           auxiliary_head.convs.{{n}}.convolution
        auxiliary_head.convs.{{n}}.bn             auxiliary_head.convs.{{n}}.normalization
    """,
    "dinov2 dinov2_with_registers rf_detr_dinov2": _SWIGLU,
    "lw_detr_vit": """
        attention.attention.query               attention.q_proj
        attention.attention.key                 attention.k_proj
        attention.attention.value               attention.v_proj
        attention.output                        attention.o_proj
    """,
    "swin": """
        {backbone,model,pixel_level_module.encoder}.{embeddings,encoder}  {1}.swin.{2}
        attention.self.query                    attention.q_proj
        attention.self.key                      attention.k_proj
        attention.self.value                    attention.v_proj
        attention.self.relative_position_bias_table  attention.relative_position_bias.relative_position_bias_table
        attention.output.dense                  attention.o_proj
        intermediate.dense                      mlp.fc1
        output.dense                            mlp.fc2
    """,
    "segformer": """
        encoder.patch_embeddings.{n}            stages.{n}.patch_embeddings
        encoder.block.{n}                       stages.{n}.blocks
        encoder.layer_norm.{n}                  stages.{n}.layer_norm
        attention.self.query                    attention.q_proj
        attention.self.key                      attention.k_proj
        attention.self.value                    attention.v_proj
        attention.self.sr                       attention.sequence_reduction.sequence_reduction
        attention.self.layer_norm               attention.sequence_reduction.layer_norm
        attention.output.dense                  attention.o_proj
        mlp.dense1                              mlp.fc1
        mlp.dense2                              mlp.fc2
        layer_norm_1                            layernorm_before
        layer_norm_2                            layernorm_after
        decode_head.linear_c                    decode_head.linear_projections
    """,
    "videomae": """
        attention.attention.q_bias              attention.attention.query.bias
        attention.attention.v_bias              attention.attention.value.bias
    """,
    "dinov3_vit": """
        ^layer                                  ^model.layer
        backbone.layer                          backbone.model.layer
    """,
    "dinov3_convnext": """
        ^stages                                 ^model.stages
    """,
    "yolos": """
        encoder.mid_position_embeddings         encoder.interpolation.mid_position_embeddings
    """,
    "altclip": """
        layer                                   layers
    """,
    "radio": """
        radio_model.model.patch_generator.video_embedder  embeddings.video_patch_projection
        radio_model.model.patch_generator.embedder        embeddings.patch_projection
        radio_model.model.patch_generator.pos_embed       embeddings.position_embedding
        radio_model.model.patch_generator.cls_token.token  embeddings.cls_register_token
        radio_model.model.blocks                encoder.layer
        radio_model.input_conditioner           input_conditioner
        radio_model.summary_idxs                summary_idxs
        attn.proj                               attention.o_proj
    """,
    # A CLIP or SigLIP tower lost the level that its checkpoints, alone or in another model, still name.
    "clip_vision_model siglip_vision_model siglip2_vision_model metaclip_2_vision_model mlcd_vision_model": """
        {vision,image,video}_tower.vision_model  {1}_tower
        vision_model.vision_model               vision_model
    """,
    "=clip_vision_model =siglip_vision_model =siglip2_vision_model =metaclip_2_vision_model =mlcd_vision_model "
    "=altclip_vision_model =chinese_clip_vision_model =clipseg_vision_model =xclip_vision_model": """
        ^vision_model                           ^
    """,
    "=clip_text_model =siglip_text_model =siglip2_text_model =metaclip_2_text_model =clipseg_text_model "
    "=xclip_text_model": """
        ^text_model                             ^
    """,
    "timm_wrapper": """
        ^                                       ^timm_model
    """,
    "detr": _DETR + _SEGMENTATION,
    "deformable_detr": _DETR,
    "maskformer": """
        layers.{n}.fc1                          layers.{n}.mlp.fc1
        layers.{n}.fc2                          layers.{n}.mlp.fc2
        {self,encoder}_attn.out_proj            {1}_attn.o_proj
    """,
    "conditional_detr": f"""{_DETR}{_SEGMENTATION}
        layers.{{n}}.sa_qcontent_proj             layers.{{n}}.self_attn.q_content_proj
        layers.{{n}}.sa_qpos_proj                 layers.{{n}}.self_attn.q_pos_proj
        layers.{{n}}.sa_kcontent_proj             layers.{{n}}.self_attn.k_content_proj
        layers.{{n}}.sa_kpos_proj                 layers.{{n}}.self_attn.k_pos_proj
        layers.{{n}}.sa_v_proj                    layers.{{n}}.self_attn.v_proj
        layers.{{n}}.ca_qcontent_proj             layers.{{n}}.encoder_attn.q_content_proj
        layers.{{n}}.ca_qpos_proj                 layers.{{n}}.encoder_attn.q_pos_proj
        layers.{{n}}.ca_kcontent_proj             layers.{{n}}.encoder_attn.k_content_proj
        layers.{{n}}.ca_kpos_proj                 layers.{{n}}.encoder_attn.k_pos_proj
        layers.{{n}}.ca_v_proj                    layers.{{n}}.encoder_attn.v_proj
        layers.{{n}}.ca_qpos_sine_proj            layers.{{n}}.encoder_attn.q_pos_sine_proj
    """,
    "rt_detr rt_detr_v2 pp_doclayout_v2 pp_doclayout_v3 pp_doclayout_v4": f"""{_RT_DETR}
        layers.{{n}}.fc1                          layers.{{n}}.mlp.fc1
        layers.{{n}}.fc2                          layers.{{n}}.mlp.fc2
    """,
    "d_fine": f"""{_RT_DETR}
        layers.{{n}}.fc1                          layers.{{n}}.mlp.layers.0
        layers.{{n}}.fc2                          layers.{{n}}.mlp.layers.1
    """,
    "sam3_tracker sam3_tracker_video": """
        ^detector_model.vision_encoder.backbone  ^vision_encoder.backbone
        ^tracker_neck                           ^vision_encoder.neck
        ^tracker_model                          ^
    """,
}
