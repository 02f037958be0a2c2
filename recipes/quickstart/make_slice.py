"""Writes the quickstart's images from Fashion-MNIST: 4,000 without labels to train on, and a labelled bank and queries.

python recipes/quickstart/make_slice.py [ROOT]   # ROOT holds torchvision's FashionMNIST folder, default `data`
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from torchvision.datasets import FashionMNIST

HERE = Path(__file__).parent
NUM_TRAIN, NUM_BANK, NUM_TEST = 4000, 1000, 1500


def main(root: str = "data") -> None:
    """Write the three files beside this one."""
    train, test = FashionMNIST(root, train=True), FashionMNIST(root, train=False)
    bank = slice(NUM_TRAIN, NUM_TRAIN + NUM_BANK)
    np.savez_compressed(HERE / "fashion_mnist_train.npz", images=train.data[:NUM_TRAIN].numpy())
    for name, dataset, part in (("bank", train, bank), ("test", test, slice(NUM_TEST))):
        np.savez_compressed(
            HERE / f"fashion_mnist_{name}.npz",
            images=dataset.data[part].numpy(),
            labels=dataset.targets[part].numpy().astype(np.uint8),
            class_names=np.array(dataset.classes),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
