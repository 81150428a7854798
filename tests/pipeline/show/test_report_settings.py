"""A run's settings in words."""

import pytest

from odin_beam.pipeline.show.report_settings import in_words, settings_rows

LAUNCH = {
    "model": "m.keras",
    "class_names": ["cat", "dog"],
    "settings": {
        "model_digest": "abc",
        "preprocessing": {"name": "unit", "mean": [], "std": [], "channel_order": "rgb"},
        "odin": {"temperature": 1000.0, "epsilon": 0.0014},
        "geometry": {"image_size": None, "antialias": False},
        "detectors": ["gen", "msp"],
        "model_factory": None,
    },
    "versions": {"odin_beam": "0.1.0"},
}


def test_settings_are_words_and_what_is_not_set_is_left_out():
    assert settings_rows(LAUNCH) == [
        ("model", "m.keras"),
        ("its 2 classes", "cat, dog"),
        ("digest of the model (SHA-256)", "abc"),
        ("preprocessing of pixels", "name: unit; channel order: rgb"),
        ("ODIN", "temperature: 1000; epsilon: 0.0014"),
        ("fitting images to the model's input", "antialias: no"),
        ("detectors", "gen, msp"),
        ("version of odin_beam", "0.1.0"),
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "yes"),
        (0, "0"),
        (0.1, "0.1"),
        ([224, 224], "224, 224"),
        ({"a_b": [{"c": None, "d": 0}]}, "a b: d: 0"),
        ("{x}", "{x}"),
    ],
)
def test_every_kind_of_value_has_words(value, words):
    assert in_words(value) == words
