"""Recipes: nothing is read two ways, every mistake is told at once, nothing is lost on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from ukd.recipe import DistillRecipe, PretrainRecipe, RecipeError, RunRecipe
from ukd.recipe_file import dump, load
from ukd.recipe_schema import json_schema


class CossOptions(BaseModel):
    """Stands in for the options of an objective."""

    model_config = ConfigDict(extra="forbid", strict=True)

    lam: Annotated[float, Field(ge=0)] = 1.0
    scale: Annotated[float, Field(gt=0)] = 70.0
    hidden_dim: Annotated[int, Field(gt=0)] = 2048


class CosineOptions(BaseModel):
    """Stands in for another one's."""

    model_config = ConfigDict(extra="forbid", strict=True)

    norm: Literal["batch", "none"] = "batch"
    dims: list[int] | None = None


OPTIONS: dict[str, type[BaseModel]] = {"coss": CossOptions, "cosine": CosineOptions}
GOOD = """\
output: runs/x
data: {train: photos}
teacher: {arch: resnet50, pretrained: true}
student: {arch: resnet18}
objective: coss
"""

Loader = Callable[..., DistillRecipe]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """Loads a recipe from its text; it is called x.yaml."""
    monkeypatch.chdir(tmp_path)

    def read(text: str, *overrides: str) -> DistillRecipe:
        Path("x.yaml").write_text(text, encoding="utf-8")
        return load("x.yaml", overrides, DistillRecipe, OPTIONS)

    return read


@pytest.fixture
def complaint(read: Loader) -> Callable[..., str]:
    """What is said of a bad recipe."""

    def complaint(text: str, *overrides: str) -> str:
        with pytest.raises(RecipeError) as caught:
            read(text, *overrides)
        return str(caught.value)

    return complaint


Complaint = Callable[..., str]


def test_five_mistakes_are_told_at_once(complaint: Complaint) -> None:
    text = """\
output: runs/x
data: {train: photos}
teacher: {pretrained: true}
student: {arch: resnet18}
views: {size_pix: 64, crop_scale: [1.0, 0.2]}
objective: {name: coss, scale: ten}
neighbours: {k: 15}
batch_size: 100
"""
    assert complaint(text) == (
        "x.yaml: 5 problems\n"
        "  views.crop_scale: must be a range above 0, smaller number first, got [1, 0.2]\n"
        "  views.size_pix: unknown key; did you mean size_px?\n"
        "  batch_size: must be a multiple of neighbours.k + 1 = 16 (an anchor and its neighbours), "
        "got 100; 96 or 112 would do\n"
        "  objective.scale: must be a number above 0, got 'ten'\n"
        "  teacher.arch: missing; give a timm name such as resnet18, or weights that say it themselves"
    )


def test_defaults_are_filled_in_those_of_the_objective_too(read: Loader) -> None:
    recipe = read(GOOD)
    assert recipe.batch_size == 256
    assert recipe.objective[0].name == "coss"
    assert recipe.objective[0].options == {"lam": 1.0, "scale": 70.0, "hidden_dim": 2048}


@pytest.mark.parametrize(
    ("spelling", "names", "weights"),
    [
        ("coss", ["coss"], [1.0]),
        ("{name: coss, weight: 2}", ["coss"], [2.0]),
        ("[coss, {name: cosine, weight: 0.5}]", ["coss", "cosine"], [1.0, 0.5]),
    ],
)
def test_objective_is_a_name_a_mapping_or_a_list(
    read: Loader, spelling: str, names: list[str], weights: list[float]
) -> None:
    objectives = read(GOOD, f"objective={spelling}").objective
    assert [objective.name for objective in objectives] == names
    assert [objective.weight for objective in objectives] == weights


@pytest.mark.parametrize("spelling", ["1e-4", "1E-4", "1.0e-4", "0.0001", ".0001", "+1.e-4"])
def test_numbers_are_read_as_they_look(read: Loader, spelling: str) -> None:
    assert read(GOOD + f"optimizer: {{lr: {spelling}}}\n").optimizer.lr == 1e-4


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "010", "1:30", "0x10", "1_000", "2024-01-01", "1.2.3"])
def test_words_that_yaml_takes_for_something_else_stay_text(read: Loader, complaint: Complaint, word: str) -> None:
    assert read(GOOD, f"data.train={word}").data.train == word
    assert complaint(GOOD, f"seed={word}").endswith(f"seed: must be a whole number of at least 0, got '{word}'")
    assert complaint(GOOD, f"data.download={word}").endswith(f"must be true or false, got '{word}'")


def test_whole_numbers_serve_as_numbers_but_booleans_do_not(read: Loader, complaint: Complaint) -> None:
    assert read(GOOD, "optimizer.lr=1").optimizer.lr == 1.0
    assert complaint(GOOD, "optimizer.lr=true").endswith("optimizer.lr: must be a number above 0, got true")
    assert complaint(GOOD, "seed=true").endswith("seed: must be a whole number of at least 0, got true")
    assert complaint(GOOD, "seed=1.0").endswith("seed: must be a whole number of at least 0, got 1.0")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("views.flip_prob=-0.1", "views.flip_prob: must be a number from 0 to 1, got -0.1"),
        ("views.crop_pct=2", "views.crop_pct: must be a number above 0 and at most 1, got 2"),
        (
            "views.crop_scale=[0, 1]",
            "views.crop_scale: must be a range above 0, smaller number first, got [0, 1]",
        ),
        (
            "views.blur_sigma=[2, 1]",
            "views.blur_sigma: must be a range above 0, smaller number first, got [2, 1]",
        ),
        ("views.crop_scale=[1]", "views.crop_scale.1: missing; must be a number from 0 to 1"),
        (
            "views.crop_scale=0.5",
            "views.crop_scale: must be a list of 2, each a number from 0 to 1, got 0.5",
        ),
        ("epochs=.inf", "epochs: must be finite, got inf"),
        ("batch_size=ten", "batch_size: must be a whole number of at least 2, got 'ten'"),
        ("output=", "output: must be text, got nothing"),
        ("optimizer.name=lamb", "optimizer.name: must be one of sgd, adamw, lars, got 'lamb'"),
        (
            "neighbours=5",
            "neighbours: must be a mapping with keys from: k, nearest, max_cosine, got 5",
        ),
        ("lr=1", "lr: unknown key; did you mean optimizer.lr?"),
        ("checkpoint.x=1", "checkpoint.x: unknown key; the keys here are every_epochs, keep"),
        (
            "neighbours={k: 63}",
            "neighbours.k: must be at most neighbours.nearest = 31, which it is drawn from, got 63",
        ),
        (
            "student.arch=",
            "student.arch: missing; give a timm name such as resnet18, or weights that say it themselves",
        ),
        (
            "teacher.pretrained=false",
            "teacher.weights: missing; a teacher needs weights (a file or a run folder), "
            "or pretrained: true for timm's own",
        ),
        (
            "teacher.weights=a.pth",
            "teacher.pretrained: is true, but weights are given as well; choose one of the two",
        ),
        (
            "data.labelled_test=a.npz",
            "data.labelled_test: data.labelled_train is missing; labelled_train and labelled_test go together",
        ),
        ("objective.name=cos", "objective.name: unknown objective 'cos'; did you mean coss?"),
        ("objective=zzz", "objective.name: unknown objective 'zzz'; choose from coss, cosine"),
        ("objective={lam: 1}", "objective.name: missing; must be text"),
        (
            "objective=[]",
            "objective: must be an objective's name, a mapping with name and options, or a list of these",
        ),
        ("objective.weight=0", "objective.weight: must be a number above 0, got 0"),
        ("objective.scale=-1", "objective.scale: must be a number above 0, got -1"),
        ("objective.scal=1", "objective.scal: unknown key; did you mean scale?"),
        (
            "objective.zzz=1",
            "objective.zzz: unknown key; the keys here are name, weight, lam, scale, hidden_dim",
        ),
        (
            "objective=[coss, {name: cosine, norm: layer}]",
            "objective.1.norm: must be one of batch, none, got 'layer'",
        ),
        ("objective={name: cosine, dims: [1, a]}", "objective.dims.1: must be a whole number, got 'a'"),
        ("noequals", "noequals: is no override; write key.sub=value"),
        ("=1", "=1: is no override; write key.sub=value"),
        ("seed.x=1", "seed.x: seed is 7, which has no keys of its own"),
        ("objective.3.scale=1", "objective.3.scale: objective is a list of 1; choose from 0 to 0"),
        (
            "views={a",
            "views: views={a: line 1, column 3: not valid YAML: expected ',' or '}', but got '<stream end>'",
        ),
        ("views={size_px: 1, size_px: 2}", "views.size_px: given twice, on lines 1 and 1; keep one of them"),
    ],
)
def test_what_is_wrong_and_what_would_be_right(complaint: Complaint, override: str, message: str) -> None:
    assert complaint(GOOD + "seed: 7\n", override) == f"x.yaml: 1 problem\n  {message}"


def test_what_is_missing_is_explained(complaint: Complaint) -> None:
    assert complaint("output: runs/x\ndata: {}\n") == (
        "x.yaml: 4 problems\n"
        "  data.train: missing; must be text "
        "(Training images; their labels, if they have any, are never read)\n"
        "  objective: missing; must be a list, each a mapping with keys from: name, weight "
        "(One objective or a weighted list: `coss`, `{name: coss, lam: 0.5}`, or a list of these)\n"
        "  teacher: missing; must be a mapping with keys from: "
        "arch, weights, format, features, pretrained, kwargs, input_px, mean, std, "
        "precision, chunk, compile, device, shard\n"
        "  student: missing; must be a mapping with keys from: "
        "arch, weights, format, features, pretrained, kwargs, input_px, mean, std"
    )


def test_rules_between_fields_speak_while_other_fields_are_wrong(complaint: Complaint) -> None:
    said = complaint(GOOD, "neighbours={k: 9, nearest: ten}", "batch_size=15", "seed=-1")
    assert said == (
        "x.yaml: 3 problems\n"
        "  seed: must be a whole number of at least 0, got -1\n"
        "  batch_size: must be a multiple of neighbours.k + 1 = 10 (an anchor and its neighbours), "
        "got 15; 10 or 20 would do\n"
        "  neighbours.nearest: must be a whole number above 0, got 'ten'"
    )
    # A rule is silent where a field of its own is wrong: nothing true could be said.
    assert "multiple" not in complaint(GOOD, "neighbours={k: nine}", "batch_size=15")


def test_a_key_given_twice_names_both_lines(complaint: Complaint) -> None:
    said = complaint(GOOD + "views:\n  size_px: 64\n  hue: 0.1\n  size_px: 96\n")
    assert said == "x.yaml: 1 problem\n  views.size_px: given twice, on lines 7 and 9; keep one of them"


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        ("", ["is empty; a recipe is a mapping, one `key: value` a line"]),
        ("- a\n", ["holds a list of 1; a recipe is a mapping, one `key: value` a line"]),
        ("abc", ["holds 'abc'; a recipe is a mapping, one `key: value` a line"]),
        ("a: [1\nb: }", ["line 2, column 2: not valid YAML: expected ',' or ']', but got ':'"]),
        (
            "a: 1\n---\nb: 1\n",
            ["line 2, column 1: not valid YAML: expected a single document in the stream, but found another document"],
        ),
        (
            "a: &x 1\nb: *x\nc: !!str 3\n",
            [
                "line 1: the anchor &x is not allowed; write values out where they are used",
                "line 2: the alias *x hides a value; write it out",
                "line 3: the tag !!str is not allowed; write the value plainly, in quotes if it is text",
            ],
        ),
    ],
)
def test_a_file_that_is_no_recipe(complaint: Complaint, content: str, messages: list[str]) -> None:
    count = "1 problem" if len(messages) == 1 else f"{len(messages)} problems"
    assert complaint(content) == "\n  ".join([f"x.yaml: {count}", *messages])


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    for path, message in [
        (tmp_path / "none.yaml", "no such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "binary.yaml", "is not text in UTF-8; a recipe is a YAML file"),
    ]:
        with pytest.raises(RecipeError) as caught:
            load(path, [], DistillRecipe, OPTIONS)
        assert str(caught.value) == f"{path}: 1 problem\n  {message}"


def test_overrides_stand_above_the_file_the_last_one_highest(read: Loader) -> None:
    recipe = read(GOOD, "seed=1", "seed=2", "neighbours.k=3", "objective.scale=50", "objective.0.lam=2")
    assert recipe.seed == 2
    assert recipe.neighbours is not None
    assert (recipe.neighbours.k, recipe.neighbours.nearest) == (3, 31)
    assert recipe.objective[0].options == {"lam": 2.0, "scale": 50.0, "hidden_dim": 2048}
    assert read(GOOD + "neighbours: {k: 3}\n", "neighbours=null").neighbours is None


def test_an_override_of_one_of_several_objectives_says_which(read: Loader, complaint: Complaint) -> None:
    several = GOOD.replace("objective: coss", "objective: [coss, cosine]")
    assert read(several, "objective.1.norm=none").objective[1].options["norm"] == "none"
    assert complaint(several, "objective.scale=1").endswith(
        "objective.scale: there are 2 objectives; say objective.0.scale or objective.1.scale"
    )


# Anything that YAML can hold and that recipes let through: timm's keyword arguments and text.
NUMBERS = st.integers() | st.floats(allow_nan=False)
TRICKY = st.sampled_from(["yes", "1e-4", "010", "1:30", "null", "~", "", "a: b", "&x", "!t", "\n", "1_0", "<<", "="])
PLAIN = st.none() | st.booleans() | NUMBERS | st.text() | TRICKY
KWARGS = st.dictionaries(st.text() | TRICKY, st.recursive(PLAIN, lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@st.composite
def recipes(draw: st.DrawFn) -> DistillRecipe:
    k = draw(st.integers(1, 50))
    text = st.text() | TRICKY
    low, high = sorted(draw(st.tuples(POSITIVE, POSITIVE)))
    raw: dict[str, Any] = {
        "output": draw(text),
        "seed": draw(st.integers(0)),
        "data": {"train": draw(text), "root": draw(text)},
        "views": {"blur_sigma": (low, high), "hue": draw(st.floats(0, 0.5))},
        "epochs": draw(POSITIVE),
        "batch_size": (k + 1) * draw(st.integers(1, 100)),
        "teacher": {
            "arch": draw(text.filter(bool)),
            **draw(st.builds(lambda path: {"weights": path}, text.filter(bool)) | st.just({"pretrained": True})),
            "kwargs": draw(KWARGS),
            "mean": (0.1, draw(st.floats(0, 1)), 1),
        },
        "student": {"weights": draw(text.filter(bool))},
        "objective": draw(
            st.lists(
                st.builds(
                    lambda s, w: {"name": "coss", "weight": w, **CossOptions(scale=s).model_dump()},
                    POSITIVE,
                    POSITIVE,
                )
                | st.builds(lambda d: {"name": "cosine", "norm": "none", "dims": d}, st.lists(st.integers())),
                min_size=1,
                max_size=3,
            )
        ),
        "neighbours": draw(st.none() | st.just({"k": k, "nearest": k})),
    }
    return DistillRecipe.model_validate(raw)


@given(recipe=recipes())
def test_what_is_written_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, recipe: DistillRecipe) -> None:
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(dump(recipe), encoding="utf-8", newline="")
    assert load(path, [], DistillRecipe, OPTIONS) == recipe
    assert yaml.safe_load(dump(recipe)) == yaml.safe_load(dump(load(path, [], DistillRecipe, OPTIONS)))


def test_a_written_recipe_says_the_same_to_every_yaml_reader(read: Loader) -> None:
    recipe = read(GOOD, "data.train=010", "data.root=yes", "output=1:30", "optimizer.lr=1e-5")
    plain = yaml.safe_load(dump(recipe))
    assert plain["data"] | {"train": "010", "root": "yes"} == plain["data"]
    assert plain["output"] == "1:30"
    assert plain["optimizer"]["lr"] == 1e-5


def test_the_schema_lists_every_objective_with_its_options() -> None:
    schema = json_schema(DistillRecipe, OPTIONS)
    coss = schema["$defs"]["objective-coss"]
    assert list(coss["properties"]) == ["name", "weight", "lam", "scale", "hidden_dim"]
    assert coss["required"] == ["name"]
    assert coss["additionalProperties"] is False
    assert schema["properties"]["objective"]["anyOf"][0] == {"enum": ["coss", "cosine"]}


@pytest.mark.parametrize("model", [DistillRecipe, PretrainRecipe])
def test_every_key_of_a_recipe_is_in_its_schema(model: type[RunRecipe]) -> None:
    assert json_schema(model, OPTIONS)["properties"].keys() == model.model_fields.keys()


def meaning(schema: str) -> Any:
    """A schema without what some versions of pydantic say and others leave out: further keys are free."""
    free = ("additionalProperties", True)
    return json.loads(schema, object_hook=lambda part: dict(item for item in part.items() if item != free))


def test_the_schema_files_are_current() -> None:
    from ukd.cli.schema import schemas

    folder = Path(__file__).parent.parent / "recipes"
    for name, text in schemas().items():
        written = (folder / name).read_text(encoding="utf-8")
        assert meaning(written) == meaning(text), f"{name} is stale; run `make schema`"
