"""Rows of the table of formats: students of the papers on label-free distillation, which may teach in their turn."""

from __future__ import annotations

from functools import partial

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ukd.formats.row import Format, Head

_Row = partial(Format, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)

STUDENTS = (
    _Row(
        "seed",
        "SEED student",
        "jacobswan1/SEED:seed/builder.py, main.py",
        "*-checkpoint_*.pth.tar (its student)",
        containers=("state_dict",),
        prefixes=("student.",),
        marks=("student.*", "teacher.*", "queue"),
        drops="teacher.*|queue|queue_ptr",
        heads=(Head("student.fc."), Head("student.classifier.")),
    ),
    _Row(
        "disco",
        "DisCo student",
        "Yuting-Gao/DisCo-pytorch:DisCo/moco/builder_kq_mse_largeembedding_2048.py, DisCo/main_lincls.py",
        "checkpoint_*.pth.tar (its query encoder)",
        containers=("state_dict",),
        prefixes=("encoder_q.",),
        marks=("encoder_q.*", "teacher_encoder_q.*"),
        drops="encoder_k.*|teacher_encoder_q.*|teacher_encoder_k.*|queue|queue_ptr",
        heads=(Head("encoder_q.fc."), Head("encoder_q.classifier.")),
    ),
    _Row(
        "bingo",
        "BINGO student",
        "haohang96/bingo:moco/builder.py, main_lincls.py",
        "ckpt_*.pth.tar (its query encoder); to the letter MoCo v2's layout",
        containers=("state_dict",),
        prefixes=("encoder_q.",),
        marks=("encoder_q.conv1.weight", "encoder_q.fc.0.weight", "encoder_q.fc.2.weight", "encoder_k.*"),
        drops="encoder_k.*|queue|queue_ptr",
        heads=(Head("encoder_q.fc."),),
    ),
    _Row(
        "simreg",
        "SimReg student",
        "UCDvision/simreg:simreg.py, main.py, mlp_arch.py",
        "ckpt_epoch_*.pth",
        containers=("state_dict", "model"),
        prefixes=("encoder_q.",),
        marks=("encoder_q.*", "predict_q.*"),
        drops="encoder_t.*",
        heads=(Head("predict_q."),),
    ),
    _Row(
        "compress",
        "CompRess student",
        "UMBCvision/CompRess:train_student.py, models/resnet.py, models/mobilenet.py",
        "ckpt_epoch_*.pth",
        containers=("model",),
        siblings=("opt", "model"),
        heads=(Head("fc."),),
    ),
)
