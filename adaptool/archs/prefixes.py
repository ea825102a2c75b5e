"""The name under which a task model holds its body: ``model`` in LlamaForCausalLM, ``bert`` in BertForMaskedLM.

A checkpoint of the bare body lacks it and an adapter trained on a task model has it, or the other way round,
and transformers loads either, adding or stripping it. So must whoever reads the checkpoint's names.
"""

from __future__ import annotations

from collections.abc import Mapping

MOST = "model"
"""More than half of all model types, and whatever is not listed."""

# The prefix is the model type itself.
_ITSELF = """
    aimv2 albert align altclip beit bert biogpt bit blip bridgetower bros canine chinese_clip chmv2 clap clip
    coarse_acoustics convbert convnext convnextv2 cpmant cvt dac deberta decision_transformer deit
    depth_anything depth_pro dinat dinov2 dinov2_with_registers distilbert dpt edgetam edgetam_video
    efficientloftr efficientnet electra encodec eomt eomt_dinov3 ernie esm esmc esmfold2 fastspeech2_conformer
    fine_acoustics flava fnet focalnet funnel git glpn gpt_neox gpt_neox_japanese groupvit gte hiera hubert
    ibert ijepa internvl_vision layoutlm layoutlmv2 layoutlmv3 led levit lightglue lilt longformer luke
    lw_detr_vit lxmert markuplm metaclip_2 mimi mobilebert mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2
    mpnet mra neucodec nomic_bert nystromformer owlv2 owlvit perceiver pixio pocket_tts_audio_tokenizer
    poolformer prompt_depth_anything prophetnet pvt pvt_v2 rag reformer regnet rembert resnet rf_detr_dinov2
    roberta roc_bert roformer rwkv sam sam2 sam2_video sam3_tracker sam3_video sam_hq seamless_m4t
    seamless_m4t_v2 segformer semantic sew siglip siglip2 speecht5 splinter superglue superpoint swiftformer
    swin swin2sr swinv2 switch_transformers tapas textnet timesformer unispeech vibevoice_acoustic_tokenizer
    videomae videomt vilt visual_bert vit vitdet vits vivit vjepa2 wav2vec2 wavlm xcodec xcodec2 yoso zoedepth
"""

_OTHERS = {
    "": """
        bark fastspeech2_conformer_hifigan fastspeech2_conformer_with_hifigan florence_vision kosmos-2 kosmos-2.5
        kosmos_2_5_text_model kosmos_2_5_vision_model kosmos_2_text_model kosmos_2_vision_model lighton_ocr
        minicpm_ocr_vision minicpmv4_6_vision minicpmv4_7_vision nemotron_h_omni phi4_multimodal_audio pix2struct
        pix2struct_text_model pix2struct_vision_model speecht5_hifigan timm_backbone univnet upernet vitmatte
    """,
    "transformer": """
        bloom codegen ctrl dbrx falcon flaubert gpt-sw3 gpt2 gpt_bigcode gpt_neo gptj imagegpt longt5 mpt mt5
        openai-gpt pop2piano squeezebert t5 udop umt5 xlm xlnet
    """,
    "blip": """
        blip-2 blip_2_qformer blip_2_vision_model blip_vision_model instructblip instructblip_qformer
        instructblip_vision_model instructblipvideo instructblipvideo_qformer instructblipvideo_vision_model
    """,
    "vision_model": """
        llama4_vision_model metaclip_2_vision_model mlcd mlcd_vision_model mllama_vision_model qianfan_ocr_vision
        siglip2_vision_model siglip_vision_model tipsv2_vision_model videoprism_vision_model
    """,
    "backbone": "falcon_mamba mamba mamba2 slanet slanext slanext_vision tipsv2_dpt uvdoc_backbone xlstm",
    "encoder": """
        granite_speech5_encoder lasr_encoder mimi_encoder nemotron_asr_streaming_encoder parakeet_encoder
        pocket_tts_audio_tokenizer_encoder
    """,
    "roberta": "altclip_text_model camembert jina_embeddings_v3 xlm-roberta xlm-roberta-xl xmod",
    "clip": "clip_text_model clip_vision_model clipseg clipseg_text_model clipseg_vision_model",
    "sam3": "sam3_detr_decoder sam3_detr_encoder sam3_mask_decoder sam3_vision_model sam3_vit_model",
    "text_model": """
        metaclip_2_text_model siglip2_text_model siglip_text_model tipsv2_text_model videoprism_text_model
    """,
    "vit": "vit_mae vit_msn vitpose vitpose_backbone yolos",
    "bert": "bert-generation big_bird blip_text_model megatron-bert",
    "decoder": "mimi_decoder pocket_tts_audio_tokenizer_decoder timesfm",
    "vlm": "colmodernvbert colpali colqwen2",
    "x_clip": "xclip xclip_text_model xclip_vision_model",
    "aimv2": "aimv2_text_model aimv2_vision_model",
    "align": "align_text_model align_vision_model",
    "bridgetower": "bridgetower_text_model bridgetower_vision_model",
    "chinese_clip": "chinese_clip_text_model chinese_clip_vision_model",
    "clap": "clap_audio_model clap_text_model",
    "detector_model": "sam3 sam3_lite_text",
    "groupvit": "groupvit_text_model groupvit_vision_model",
    "owlv2": "owlv2_text_model owlv2_vision_model",
    "owlvit": "owlvit_text_model owlvit_vision_model",
    "sam2": "sam2_hiera_det_model sam2_vision_model",
    "timm_model": "gemma3n_vision timm_wrapper",
    "vibevoice_acoustic_tokenizer": """
        vibevoice_acoustic_tokenizer_decoder vibevoice_acoustic_tokenizer_encoder
    """,
    "altclip": "altclip_vision_model",
    "audio_model": "pe_audio",
    "audio_model.audio_encoder": "pe_audio_encoder",
    "audio_spectrogram_transformer": "audio-spectrogram-transformer",
    "audio_video_encoder": "pe_audio_video_encoder",
    "data2vec_audio": "data2vec-audio",
    "data2vec_text": "data2vec-text",
    "data2vec_vision": "data2vec-vision",
    "deberta": "deberta-v2",
    "donut": "donut-swin",
    "edgetam": "edgetam_vision_model",
    "emuvideovq": "emu3_vqgan",
    "encoder_decoder": "encoder-decoder",
    "flava.image_model": "flava_image_model",
    "flava.multimodal_model": "flava_multimodal_model",
    "flava.text_model": "flava_text_model",
    "git": "git_vision_model",
    "hgnetv2": "hgnet_v2",
    "language_model.model": "mllama_text_model",
    "mgp_str": "mgp-str",
    "model.audio_tower": "gemma4_audio",
    "phi4_vision": "phi4_multimodal_vision",
    "question_encoder": "dpr",
    "resnet": "rt_detr_resnet",
    "roberta_prelayernorm": "roberta-prelayernorm",
    "sam": "sam_vision_model",
    "sam_hq": "sam_hq_vision_model",
    "sew_d": "sew-d",
    "speech_encoder_decoder": "speech-encoder-decoder",
    "talker": "qwen2_5_omni_talker",
    "talker.code_predictor.model": "qwen3_omni_moe_talker_code_predictor",
    "talker.model": "qwen3_omni_moe_talker_text",
    "tracker_model": "sam3_tracker_video",
    "unispeech_sat": "unispeech-sat",
    "video_model": "pe_video",
    "video_model.video_encoder": "pe_video_encoder",
    "vision_encoder": "pixtral",
    "vision_encoder_decoder": "vision-encoder-decoder",
    "vision_text_dual_encoder": "vision-text-dual-encoder",
    "wav2vec2_bert": "wav2vec2-bert",
    "wav2vec2_conformer": "wav2vec2-conformer",
}

BASE_MODEL_PREFIX: Mapping[str, str] = {
    **{model_type: model_type for model_type in _ITSELF.split()},
    **{model_type: prefix for prefix, model_types in _OTHERS.items() for model_type in model_types.split()},
}


def base_model_prefix(model_type: str) -> str:
    """Where a task model of this type holds its body ("" where it has no name of its own)."""
    return BASE_MODEL_PREFIX.get(model_type, MOST)
