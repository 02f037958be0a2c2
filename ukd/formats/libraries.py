"""Rows of the table of formats: libraries of methods and of models, and our own runs."""

from __future__ import annotations

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from ukd.formats.row import Format, Head

LIBRARIES = (
    Format(
        "ukd",
        "a run of this project",
        "ukd:ukd/checkpoint.py",
        "a run folder, or its student.safetensors or teacher.safetensors",
        siblings=("arch", "provenance"),
    ),
    Format(
        "vissl",
        "VISSL",
        "facebookresearch/vissl:extra_scripts/convert_vissl_to_torchvision.py, vissl/models/trunks/resnext.py, "
        "vissl/models/trunks/vision_transformer.py, vissl/models/heads/mlp.py",
        "model_final_checkpoint_phase*.torch",
        containers=("classy_state_dict.base_model.model", "model_state_dict"),
        prefixes=("trunk._feature_blocks.", "trunk.", "_feature_blocks."),
        marks=("trunk.*|_feature_blocks.*",),
        drops="heads.*",
        heads=(Head("heads.0.clf."), Head("heads.0.projection_head.")),
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
    ),
    Format(
        "mmselfsup",
        "MMSelfSup",
        "open-mmlab/mmselfsup:mmselfsup/models/algorithms/moco.py, mmselfsup/models/backbones/mocov3_vit.py, "
        "tools/model_converters/mmcls2timm.py, tools/model_converters/extract_backbone_weights.py",
        "epoch_*.pth, or its backbone alone",
        containers=("state_dict",),
        prefixes=("backbone.", ""),
        siblings=("meta",),
        marks=("backbone.*",),
        drops="neck.*|head.*|queue|queue_ptr|encoder_q.*|encoder_k.*|base_encoder.*|momentum_encoder.*|online_net.*|"
        "target_net.*|target_generator.*|data_preprocessor.*|backbone.mask_token",
        heads=(
            Head("neck.mlp."),
            Head("neck.projection_neck."),
            Head("neck.", order=("fc0", "bn0", "", "fc1", "bn1", "", "fc2", "bn2"), needs="neck.fc0.weight"),
        ),
        num_heads={384: 12},
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
    ),
    Format(
        "solo_learn",
        "solo-learn",
        "vturrisi/solo-learn:solo/methods/base.py, solo/methods/byol.py, solo/methods/dino.py, solo/methods/mae.py",
        "*.ckpt (its online network)",
        containers=("state_dict",),
        prefixes=("backbone.", "encoder."),
        siblings=("pytorch-lightning_version",),
        marks=("backbone.*|encoder.*", "classifier.*"),
        drops="classifier.*|predictor.*|head.*|momentum_*|prototypes.*|queue*|decoder.*|*_loss_func.*",
        heads=(Head("projector."), Head("head.mlp.", nn.GELU)),
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
    ),
    Format(
        "lightly",
        "lightly",
        "lightly-ai/lightly:benchmarks/imagenet/resnet50/mocov2.py, benchmarks/imagenet/vitb16/mae.py, "
        "benchmarks/imagenet/vitb16/dino.py, lightly/models/modules/heads.py",
        "*.ckpt of a benchmark or of a module built like the documentation's",
        containers=("state_dict",),
        prefixes=("backbone.vit.", "backbone.", "teacher_backbone.vit.", "teacher_backbone."),
        siblings=("pytorch-lightning_version",),
        marks=("backbone.*|teacher_backbone.*",),
        drops="student_*|query_*|teacher_head.*|anchor_*|*_momentum.*|projection_head*|prediction_head.*|head.*|"
        "online_classifier.*|prototypes*|criterion.*|memory_bank.*|decoder.*|mask_token|*backbone.mask_token",
        heads=(
            Head("projection_head.layers.", nn.GELU, needs="projection_head.last_layer.*|anchor_backbone.*"),
            Head("projection_head.layers."),
            Head("teacher_head.layers.", nn.GELU, needs="teacher_head.last_layer.*"),
        ),
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
    ),
    Format(
        "lightly_train",
        "lightly-train",
        "lightly-ai/lightly-train:src/lightly_train/_commands/export.py, src/lightly_train/_models/embedding_model.py, "
        "src/lightly_train/_models/timm/timm.py, src/lightly_train/_models/torchvision/resnet.py",
        "exported_last.pt of a timm or torchvision model, or its embedding_model as torch_state_dict; no .ckpt, which "
        "holds code",
        prefixes=("model_wrapper._model.", "model_wrapper._features.", "_model.", "_features.", ""),
        marks=("model_wrapper.*|_model.*|_features.*",),
        drops="embed_head.*|model_wrapper._pool.*|_pool.*",
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
    ),
    Format(
        "transformers",
        "Hugging Face transformers",
        "huggingface/transformers:src/transformers/models/vit/modeling_vit.py, dinov2/modeling_dinov2.py, "
        "dinov2_with_registers/modeling_dinov2_with_registers.py, dinov3_vit/modeling_dinov3_vit.py, "
        "dinov3_convnext/modeling_dinov3_convnext.py, vit_mae/modeling_vit_mae.py, vit_msn/modeling_vit_msn.py, "
        "resnet/modeling_resnet.py, convnext/modeling_convnext.py",
        "a directory with config.json and model.safetensors or pytorch_model.bin",
        prefixes=(
            *("vit.", "dinov2.", "dinov2_with_registers.", "dinov3_vit.", "dinov3_convnext.", "resnet.", "convnext."),
            *("model.", ""),
        ),
        siblings=("model_type",),
        drops="classifier.*|decoder.*|pooler.*|vit.pooler.*",
        pools_token=True,
    ),
    Format(
        "torchvision",
        "torchvision",
        "pytorch/vision:torchvision/models/resnet.py, torchvision/models/vision_transformer.py",
        "a model's state_dict: ResNet or ViT",
        containers=("state_dict", "model", ""),
        marks=("class_token", "encoder.layers.encoder_layer_0.*"),
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
    ),
    Format(
        "mobilenet_v2",
        "MobileNetV2",
        "tonylins/pytorch-mobilenet-v2:MobileNetV2.py; pytorch/vision:torchvision/models/mobilenetv2.py",
        "a state_dict in the names of the first PyTorch port or of torchvision's",
        containers=("state_dict", "model", ""),
        marks=("features.0.0.weight", "features.1.conv.*", "features.18.0.weight"),
        drops="classifier.*",
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
    ),
    Format(
        "timm_ema",
        "timm, averaged weights",
        "huggingface/pytorch-image-models:timm/utils/checkpoint_saver.py",
        "a training checkpoint of timm that kept averaged weights",
        containers=("state_dict_ema", "model_ema"),
        marks=("*",),
    ),
    Format(
        "timm",
        "plain names, timm's or a torchvision ResNet's",
        "huggingface/pytorch-image-models:timm/models/_helpers.py",
        "a state_dict, alone or in a checkpoint",
        containers=("state_dict", "model", ""),
    ),
)
