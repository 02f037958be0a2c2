"""Small data sets that lie on disk as the published ones do; images of one thing share their colours."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from ukd.data import Pixels

NUM_LANDMARKS, NUM_DISTRACTORS = 5, 8
BOX = (20, 10, 60, 40)
"""Where a query shows its landmark; left, top, right, bottom."""
COPIES = ("strong", "jpegqual/3", "jpegqual/75", "crops/50")
OBJECTS = ("logos", "paintings")


def scene(thing: int, noise: int = 0, *, height: int = 30, width: int = 40) -> Pixels:
    """A picture of a thing: patches of its colours, noisy and changed more the larger `noise` is."""
    colours = np.random.default_rng(thing).integers(0, 256, (3, 4, 3))
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 4 // width
    pixels = colours[rows][:, columns] + np.random.default_rng([thing, noise]).normal(0, 4 * noise, (height, width, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def save(path: Path, pixels: Pixels, quality: int = 95) -> None:
    """Write a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=quality)


def make_landmarks(folder: Path, name: str = "roxford5k") -> Path:
    """Write `NAME/gnd_NAME.pkl` and `NAME/jpg/`: a query, two easy images, a hard one and a junk one a landmark.

    The last query has no hard image, so that it does not count there. Queries show their landmark in a box, and that of
    another query around it.
    """
    place = folder / name
    names, queries, entries = [], [], []
    for landmark in range(NUM_LANDMARKS):
        first = len(names)
        kinds = {"easy": (1, 2), "hard": (12,) if landmark < NUM_LANDMARKS - 1 else (), "junk": (20,)}
        entry: dict[str, object] = {"bbx": [each + 0.3 for each in BOX]}
        for kind, noises in kinds.items():
            entry[kind] = np.arange(first, first + len(noises))
            first += len(noises)
            for noise in noises:
                names.append(f"landmark_{landmark}_{kind}_{noise}")
                save(place / "jpg" / f"{names[-1]}.jpg", scene(landmark, noise))
        whole = scene((landmark + 1) % NUM_LANDMARKS, 1, height=60, width=80)
        left, top, right, bottom = BOX
        whole[top:bottom, left:right] = scene(landmark, 3)
        queries.append(f"query_{landmark}")
        save(place / "jpg" / f"{queries[-1]}.jpg", whole)
        entries.append(entry)
    for number in range(NUM_DISTRACTORS):
        names.append(f"distractor_{number}")
        save(place / "jpg" / f"{names[-1]}.jpg", scene(100 + number, 1, height=40, width=30))
    truth = {"imlist": names, "qimlist": queries, "gnd": entries}
    (place / f"gnd_{name}.pkl").write_bytes(pickle.dumps(truth, 2))
    return place


def make_copydays(folder: Path, num: int = 6) -> Path:
    """Write `original/` and the blocks of COPIES, one copy of every original in each, two in `strong`."""
    for number in range(num):
        group = f"20{number:02d}"
        save(folder / "original" / f"{group}00.jpg", scene(number))
        save(folder / "strong" / f"{group}01.jpg", scene(number, 10))
        save(folder / "strong" / f"{group}02.jpg", scene(number, 3)[::-1])
        for quality in (3, 75):
            save(folder / "jpegqual" / str(quality) / f"{group}00.jpg", scene(number), quality=quality)
        save(folder / "crops" / "50" / f"{group}00.jpg", scene(number)[5:-5, 5:-5])
    return folder


def make_forb(folder: Path, num: int = 6) -> Path:
    """Write `metadata/` and the images of OBJECTS; `oods` holds none of the things that are asked for."""
    lists: dict[str, list[str]] = {"all": [], "oods": []}
    for kind, name in enumerate(OBJECTS):
        records = []
        for number in range(num):
            thing = 10 * kind + number
            answer, other, query = (f"{name}/{part}/{number}.jpg" for part in ("database", "database/other", "query"))
            save(folder / answer, scene(thing, 1))
            save(folder / other, scene(200 + thing, 1))
            level = ("easy", "medium", "hard")[number % 3]
            save(folder / query, scene(thing, {"easy": 2, "medium": 8, "hard": 25}[level]))
            lists["all"] += [answer, other]
            lists["oods"].append(other)
            records.append({"query_image": query, "groundtruth_images": [answer], "difficulty": level})
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "metadata").mkdir(exist_ok=True)
        (folder / "metadata" / f"{name}_gt.ndjson").write_text(text)
    for name, paths in lists.items():
        (folder / "metadata" / f"{name}_database_images.txt").write_text("\n".join(paths) + "\n")
    return folder
