"""Writes the quickstart's images: the first 5,000 training and 1,500 test images of Fashion-MNIST.

python recipes/quickstart/make_slice.py [ROOT]   # ROOT holds torchvision's FashionMNIST folder, default `data`
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from torchvision.datasets import FashionMNIST

SIZES = {"train": 5000, "test": 1500}


def main(root: str = "data") -> None:
    """Write fashion_mnist_train.npz and fashion_mnist_test.npz beside this file."""
    for split, size in SIZES.items():
        dataset = FashionMNIST(root, train=split == "train")
        np.savez_compressed(
            Path(__file__).with_name(f"fashion_mnist_{split}.npz"),
            images=dataset.data[:size].numpy(),
            labels=dataset.targets[:size].numpy(),
            class_names=np.array(dataset.classes),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
