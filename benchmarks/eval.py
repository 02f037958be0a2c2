"""What evaluation costs beside the field's own scripts, in one process on one thread, in CPU time, taken in turns.

Our kNN beside DINO's way, chunks of queries times the whole bank and `topk`, on the same features; all C of a logistic
regression at once beside scikit-learn's, one after the other, to the same certificate; and a step of 52 linear heads
beside a step of one head, both behind the same frozen forward pass. Memory is what the resident set grows by at most.

    python benchmarks/eval.py
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import torch
from torch import Tensor

from ukd.backbones import build_backbone
from ukd.eval.linear.heads import Grid
from ukd.eval.logistic import LogisticFit
from ukd.eval.logistic_grid import fit_all
from ukd.neighbours import nearest

NUM_ROUNDS = 3
NUM_QUERIES, NUM_BANK, DIM, K = 2_000, 50_000, 384, 200
CHUNK = 500
"""DINO splits its queries into 100 chunks, which are of this many on ImageNet."""


def clouds(num: int, dim: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, D] of overlapping classes whose columns differ in length, and labels [n]."""
    rng, centres = np.random.default_rng(seed), np.random.default_rng(99).standard_normal((num_classes, dim))
    labels = rng.integers(num_classes, size=num)
    rows = (centres[labels] + 3 * rng.standard_normal((num, dim))) * np.logspace(0, -1, dim)
    return rows.astype(np.float32), labels


def ours(queries: np.ndarray, bank: np.ndarray) -> None:
    """The search of `ukd-eval knn`."""
    nearest(queries, bank, K)


def chunked(queries: np.ndarray, bank: np.ndarray) -> None:
    """As facebookresearch/dino:eval_knn.py searches: normalise all, then chunks of similarities to the whole bank."""
    rows = torch.nn.functional.normalize(torch.from_numpy(bank), dim=1).T
    for chunk in torch.nn.functional.normalize(torch.from_numpy(queries), dim=1).split(CHUNK):
        (chunk @ rows).topk(K, largest=True, sorted=True)


SEARCHES = {"ours": ours, "chunked": chunked}


def memory_mb(name: str) -> float:
    """What the resident set of this process grows by in one search, in MB; Linux tells its peak."""
    queries, bank = clouds(NUM_QUERIES, DIM, 100, 0)[0], clouds(NUM_BANK, DIM, 100, 1)[0]
    SEARCHES[name](queries[:K], bank[: 2 * K])  # Libraries load here.
    Path("/proc/self/clear_refs").write_text("5")  # From here on, the peak is that of what follows.
    before = _peak_mb()
    SEARCHES[name](queries, bank)
    return _peak_mb() - before


def _peak_mb() -> float:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def in_turns(pair: Sequence[Callable[[], None]], num_rounds: int = NUM_ROUNDS) -> tuple[float, float, float]:
    """Median CPU seconds of each of two, taken in turns after one turn to warm up, and their median ratio."""
    times: list[list[float]] = []
    for _ in range(num_rounds + 1):
        row = []
        for take in pair:
            start = time.process_time()
            take()
            row.append(time.process_time() - start)
        times.append(row)
    first, second = zip(*times[1:], strict=True)
    ratio = statistics.median(a / b for a, b in times[1:])
    return statistics.median(first), statistics.median(second), ratio


def logistic_pair() -> tuple[Callable[[], None], Callable[[], None]]:
    """All C at once, and one after the other, on the same features."""
    rows, labels = clouds(2_000, 128, 10, 0)
    cs = [float(c) for c in np.logspace(-5, 1, 25)]

    def at_once() -> None:
        fit_all(rows, labels, cs, tol=1e-5, max_iter=1_000, device=torch.device("cpu"))

    def looped() -> None:
        fit = LogisticFit(rows, labels, tol=1e-5, max_iter=1_000)
        for c in cs:
            fit.to(c)
            fit.certificate()

    return at_once, looped


def heads_pair() -> tuple[Callable[[], None], Callable[[], None]]:
    """Ten steps of 52 heads, and of one, each behind the forward pass of a frozen ResNet-18 at 64 px."""
    backbone = build_backbone(arch="resnet18", frozen=True, size_px=64).eval()
    views = torch.randn(64, 3, 64, 64)
    targets = torch.arange(64) % 100
    rates = [(lr * scale, wd) for lr in (0.001, 0.01, 0.1, 1.0) for scale in range(1, 14) for wd in (0.0,)]

    def steps(rates: Sequence[tuple[float, float]]) -> Callable[[], None]:
        columns = {"pooled": slice(0, backbone.dim)}
        device, dtype = torch.device("cpu"), torch.float32
        grid = Grid(columns, 100, rates, momentum=0.9, init_std=0.01, seed=0, device=device, dtype=dtype)

        def take() -> None:
            for _ in range(10):
                with torch.no_grad():
                    rows: Tensor = backbone(views).pooled
                    grid.step(rows, targets, 1.0)

        return take

    assert len(rates) == 52
    return steps(rates), steps(rates[:1])


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    if len(sys.argv) == 2:
        print(memory_mb(sys.argv[1]))
        return
    queries, bank = clouds(NUM_QUERIES, DIM, 100, 0)[0], clouds(NUM_BANK, DIM, 100, 1)[0]
    print("| what | beside | CPU s | CPU s of the other | ratio |\n|---|---|---:|---:|---:|")
    search = in_turns((lambda: ours(queries, bank), lambda: chunked(queries, bank)))
    print("| kNN search, k = 200 | chunked product and `topk` | {:.2f} | {:.2f} | {:.2f} |".format(*search), flush=True)
    command = [sys.executable, __file__]
    peaks = [
        float(subprocess.run([*command, name], capture_output=True, text=True, check=True).stdout) for name in SEARCHES
    ]
    print("| its peak memory, MB | | {:.0f} | {:.0f} | {:.2f} |".format(*peaks, peaks[0] / peaks[1]), flush=True)
    fits = in_turns(logistic_pair(), 1)
    print("| logistic regression, 25 C at once | scikit-learn's loop | {:.2f} | {:.2f} | {:.2f} |".format(*fits))
    steps = in_turns(heads_pair())
    print("| ten steps of 52 heads | of one head | {:.2f} | {:.2f} | {:.2f} |".format(*steps))


if __name__ == "__main__":
    main()
