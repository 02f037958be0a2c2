"""Where an interrupted probe continues from."""

from __future__ import annotations

from pathlib import Path

from ukd.eval.linear.saved import Saved


def test_a_probe_finds_its_own_state_if_it_is_to_resume(tmp_path: Path) -> None:
    folder, key, other = tmp_path / "linear.resume", {"preset": "a"}, {"preset": "b"}
    interrupted = Saved(folder, resume=False).of(key)
    assert interrupted is not None and interrupted.latest() is None
    interrupted.save(3, {"curve": [(1, ([2], [3]), ([4], [5]))]})
    interrupted.save(6, {"curve": []})
    resumed = Saved(folder, resume=True)
    found, none = resumed.of(key), resumed.of(other)
    assert found is not None and found.latest() == {"step": 6, "curve": []}
    assert none is not None and none.latest() is None
    anew = Saved(folder, resume=False).of(key)
    assert anew is not None and anew.latest() is None


def test_what_is_done_is_cleared_and_what_others_left_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "linear.resume"
    ours, theirs = Saved(folder, resume=False), Saved(folder, resume=False)
    for saved, key in ((ours, {"preset": "a"}), (theirs, {"preset": "b"})):
        probe = saved.of(key)
        assert probe is not None
        probe.save(1, {})
    ours.clear()
    assert len(list(folder.iterdir())) == 1
    theirs.clear()
    assert not folder.exists()


def test_without_a_folder_nothing_is_kept() -> None:
    saved = Saved(None, resume=True)
    assert saved.of({}) is None
    saved.clear()
