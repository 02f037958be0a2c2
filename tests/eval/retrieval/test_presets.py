"""The protocols are frozen."""

from __future__ import annotations

from ukd.eval.retrieval import classes, copydays, forb, hashing, landmarks


def test_the_presets_are_frozen() -> None:
    # These hashes stand in result files: whoever changes one changes a protocol, and should name it anew.
    presets = {
        "class": classes.PRESETS,
        "hash": hashing.PRESETS,
        "roxford": landmarks.PRESETS["roxford"],
        "rparis": landmarks.PRESETS["rparis"],
        "copydays": copydays.PRESETS,
        "forb": forb.PRESETS,
    }
    assert {f"{kind} {name}": preset.hash for kind, each in presets.items() for name, preset in each.items()} == {
        "class cub": "647b2532167e5134",
        "class sop": "5abe99730e978313",
        "class inshop": "092810cfb22f9c62",
        "hash hashing": "d8c7a6f260064f3e",
        "hash hashing-5000": "1ea4c62751578121",
        "roxford dino": "5c358ca48f711077",
        "roxford cirtorch": "0f7da007a96e77e5",
        "rparis dino": "0edd090618f0e0d9",
        "rparis cirtorch": "0f7da007a96e77e5",
        "copydays dino": "fd25b80ba31a56eb",
        "copydays pooled": "25977aa1edab86ff",
        "forb forb": "0418911cd53c3e85",
        "forb one-scale": "b82b622acae271d9",
    }
