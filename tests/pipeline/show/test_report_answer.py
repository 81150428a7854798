"""The first sentences of a report, in every case that a run can be in."""

import pytest

from odin_beam.pipeline.show.report_answer import answer, next_commands, of_hundred

NO_METRICS = {"pairs": [], "in_distribution": {}}


def source(flagged, images=500, verdict="more", low=19, high=34, least=12, role="input", **more):
    own = {"role": role, "images": images, "flagged": flagged, "without_score": 0, "without_calibration": 0}
    figures = {"false_flags_low": low, "false_flags_high": high, "unlike_at_least": least, "verdict": verdict}
    return own | figures | {"clustered": None} | more


def flags(sources, together=None, per_class=False):
    return {
        "rule": {"tpr": 0.95, "threshold": -1.0},
        "sources": sources,
        "together": together,
        "per_class": per_class,
        "calibration": {"images": 519, "sources": ["validation"]},
    }


def answer_of(found, roles=None):
    roles = roles or {name: own["role"] for name, own in found["sources"].items()}
    return answer("/out", roles, dict.fromkeys(roles, 500), NO_METRICS, "gen", found)


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        (
            source(43),
            "43 of 500 images in photos look foreign, 19 to 34 expected if none were: more than chance, at least 12 "
            "are. Start with these.",
        ),
        (
            source(1, images=1, low=0, high=0, least=1),
            "1 of 1 image in photos looks foreign, 0 to 0 expected if none were: more than chance, at least 1 is. "
            "Start with these.",
        ),
        (
            source(1043, images=12_500, low=600, high=1000, least=0),
            "1,043 of 12,500 images in photos look foreign, 600 to 1,000 expected if none were: more than chance. "
            "Start with these.",
        ),
        (
            source(25, verdict="as_expected", least=0),
            "25 of 500 images in photos look foreign, 19 to 34 expected if none were: no evidence that any is.",
        ),
        (
            source(0, verdict="fewer", least=0),
            "0 of 500 images in photos look foreign, 19 to 34 expected if none were: fewer than chance, so these "
            "images are not like those of the calibration.",
        ),
        (
            source(0, verdict=None, low=None, high=None, least=None, without_score=500),
            "No image in photos could be judged.",
        ),
    ],
)
def test_flags_of_an_archive_are_answered_with_what_chance_explains(own, sentence):
    found = answer_of(flags({"photos": own}))
    assert found.sentences == (sentence,)
    assert found.command is None


def test_known_sources_beside_an_archive_take_no_part_in_the_answer():
    known = source(25, role="in_distribution", verdict="as_expected")
    found = answer_of(flags({"known": known, "photos": source(43)}))
    assert len(found.sentences) == 1
    assert found.sentences[0].startswith("43 of 500 images in photos")
    assert "lower than 95 of 100 known images. The comparison rests on 519 known images." in found.details[-1]


def test_several_archives_are_answered_together_first():
    own = {"june": source(25, verdict="as_expected"), "july": source(43)}
    found = answer_of(flags(own, together={"sources": ["june", "july"], **source(68, images=1000, low=40, high=60)}))
    assert [sentence.partition(" look")[0] for sentence in found.sentences] == [
        "68 of 1,000 images in all 2 sources together",
        "25 of 500 images in june",
        "43 of 500 images in july",
    ]


def test_known_sources_alone_are_false_alarms_and_finds():
    found = answer_of(flags({"cats": source(25, role="in_distribution"), "dogs": source(440, role="out_distribution")}))
    assert found.sentences == (
        "25 of 500 known images in cats look foreign: false alarms.",
        "440 of 500 foreign images in dogs look foreign: found.",
    )


def test_what_could_not_be_judged_and_clusters_are_said_beside_the_answer():
    clustered = {"images": 50, "false_flags_low": 5, "false_flags_high": 60, "unlike_at_least": 2}
    found = answer_of(flags({"photos": source(43, clustered=clustered, without_score=7)}, per_class=True))
    assert found.sentences[0].startswith("43 of 493 images in photos")
    said = " ".join(found.details)
    assert "5 to 60 are expected by chance, and at least 2 are foreign" in said
    assert "7 images in photos could not be judged." in said
    assert "known images of the same predicted class" in said


@pytest.mark.parametrize(
    ("flagged", "sentence"),
    [
        (
            43,
            "43 of 500 images in photos look foreign, of which at most 10 in 100 are expected to be false alarms: more "
            "than chance. Start with these.",
        ),
        (0, "None of 500 images in photos stands out as foreign: no evidence."),
    ],
)
def test_flags_by_false_discovery_rate_are_answered_with_it(flagged, sentence):
    rule = {"fdr": 0.1, "images": 500, "flagged": flagged, "sources": ["photos"]}
    found = answer_of(flags({"photos": source(flagged)}) | {"rule": rule})
    assert found.sentences == (sentence,)


def test_without_flags_the_answer_is_what_is_missing_and_the_command():
    roles, counts = {"known": "in_distribution", "photos": "input"}, {"known": 100, "photos": 1}
    pair = {"detector": "gen", "in_distribution": "known", "out_distribution": "x", "fpr_at_95_tpr": 0.1}
    found = answer("/my out", roles, counts, NO_METRICS | {"pairs": [pair]}, "gen", None)
    assert found.sentences == ("1 image of photos was scored; how many of them look foreign is not known yet.",)
    assert found.command == "odin-beam flag --scores '/my out' --calibration calibration.json"


def test_known_images_alone_are_said_to_be_known():
    found = answer("/out", {"known": "in_distribution"}, {"known": 1000}, NO_METRICS, "gen", None)
    assert found.sentences[0].startswith("1,000 known images of known were scored")


@pytest.mark.parametrize(("fpr", "word"), [(0.0, "almost always"), (0.12, "mostly"), (0.5, "often"), (0.9, "seldom")])
def test_known_and_foreign_sources_are_answered_by_how_many_are_found(fpr, word):
    pair = {"in_distribution": "cats", "out_distribution": "dogs"}
    pairs = [pair | {"detector": "gen", "fpr_at_95_tpr": fpr}, pair | {"detector": "msp", "fpr_at_95_tpr": 0.99}]
    metrics = {"pairs": pairs, "in_distribution": {"cats": {"accuracy": 0.946}}}
    roles = {"cats": "in_distribution", "dogs": "out_distribution"}
    found = answer("/out", roles, dict.fromkeys(roles, 10), metrics, "gen", None)
    (sentence,) = found.sentences
    assert sentence == (
        f"Foreign images of dogs are {word} told from known ones of cats: of 100 foreign images, "
        f"{of_hundred(100 * (1 - fpr))} found when 5 of 100 known ones are flagged."
    )
    assert found.details == ("Of 100 known images of cats, the classifier names 95 rightly.",)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (100.0, "all are"),
        (99.99, "more than 99 are"),
        (99.0, "99 are"),
        (88.4, "88 are"),
        (1.2, "1 is"),
        (0.3, "fewer than 1 is"),
        (0.0, "none is"),
    ],
)
def test_all_and_none_are_said_only_of_all_and_none(found, words):
    assert of_hundred(found) == words


@pytest.mark.parametrize("roles", [{}, {"photos": "input"}, {"known": "in_distribution", "x": "out_distribution"}])
def test_without_images_there_is_nothing_to_see(roles):
    found = answer("/out", roles, dict.fromkeys(roles, 0), NO_METRICS, "gen", flags({"photos": source(0)}))
    assert found.sentences == ("No image has been scored, so there is nothing to see yet.",)


def test_the_next_commands_depend_on_what_was_done():
    roles = {"june": "input", "july": "input"}
    before = [line for _, line in next_commands("/o", roles, None, None, [])]
    assert before == [
        "odin-beam flag --scores /o --calibration calibration.json",
        "odin-beam top --scores /o --sheet first.png",
        "odin-beam compare --scores /o --reference june --new july",
    ]
    compared = [{"reference": {"source": "june"}, "new": {"source": "july"}}]
    after = [line for _, line in next_commands("/o", roles, flags({}), "strict", compared)]
    assert after == [
        "odin-beam top --scores /o --name strict --sheet first.png",
        "odin-beam top --scores /o --name strict --random 100 --csv sample.csv --copy sample/",
        "odin-beam review --scores /o --name strict --labels sample.csv",
    ]
    quoted = [line for _, line in next_commands("/o", roles, flags({}), "x; touch pwned", compared)]
    assert all(" --name 'x; touch pwned'" in line for line in quoted)
    alone = [line for _, line in next_commands("/o", {"photos": "input"}, None, None, [])]
    assert not [line for line in alone if "compare" in line]
    assert any(
        "--reference a --new b" in line
        for _, line in next_commands("/o", {"b": "input", "a": "in_distribution"}, None, None, [])
    )
