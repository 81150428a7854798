"""Which images a report shows: bounded, whatever the number of sources and classes."""

import itertools

import pytest

from odin_beam.pipeline.show.report_selection import MOST, class_title, parts


def row(source, index, flagged=None):
    return {"source": source, "shard": source, "index": index, "is_ood": flagged}


def data(roles, classes=3, flagged=0, with_flags=True, threshold=None, images=36):
    """`flagged` of each source's images are flagged, those of the lowest indexes."""
    return {
        "roles": roles,
        "ranked_by": "gen",
        "flagged": with_flags,
        "threshold": threshold,
        "galleries": {
            source: {
                "lowest": [row(source, i, i < flagged if with_flags else None) for i in range(images)],
                "highest": [row(source, 1000 - i, False if with_flags else None) for i in range(images)],
            }
            for source in roles
        },
        "examples": {
            source: [
                {"class": c, "count": 40, "flagged": 10, "rows": [row(source, 100 * c + i) for i in range(6)]}
                for c in range(classes if images else 0)
            ]
            for source in roles
        },
    }


def shown(found):
    return [own for part in found for group in part.groups for own in group.rows]


@pytest.mark.parametrize("classes", [1, 7, 20])
@pytest.mark.parametrize("sources", [1, 2, 5, 40, 1000])
@pytest.mark.parametrize("role", ["input", "out_distribution"])
@pytest.mark.parametrize("flagged", [0, 1, 36])
def test_a_page_never_shows_more_than_so_many_images(classes, sources, role, flagged):
    roles = {"known": "in_distribution"} | {f"s{i}": role for i in range(sources)}
    found = parts(data(roles, classes, flagged), None)
    assert len(found) == 3
    assert 3 <= len(shown(found)) <= MOST
    assert all(group.rows for part in found for group in part.groups)
    left = sources + (role == "out_distribution") - len(found[0].groups)
    assert (f"no room here for {left:,} more source" in found[0].note) == (left > 0)


def test_flagged_images_of_the_archive_come_first_and_no_others():
    found = parts(data({"known": "in_distribution", "photos": "input"}, flagged=5), None)
    (first,) = found[0].groups
    assert [(own["source"], own["index"]) for own in first.rows] == [("photos", i) for i in range(5)]
    assert (first.title, first.note) == ("photos", "")
    assert len(parts(data({"photos": "input"}, flagged=36), None)[0].groups[0].rows) == 24


def test_without_a_flagged_image_the_closest_are_shown_and_said_to_be_none():
    (first,) = parts(data({"photos": "input"}), None)[0].groups
    assert [own["index"] for own in first.rows] == list(range(6))
    assert first.note == "None is flagged; these are the closest to it."


def test_classes_have_names_and_shares():
    names = ("cat", "dog", "cow")
    groups = parts(data({"photos": "input"}, flagged=5), names)[1].groups
    assert [(group.title, group.note) for group in groups] == [
        (f"Seen as {name}", "10 of 40 images flagged, 25 %.") for name in names
    ]
    assert [own["index"] for own in groups[1].rows] == [100 + i for i in range(6)]
    below = parts(data({"photos": "input"}, with_flags=False, threshold=0.5), None)[1].groups
    assert (below[2].title, below[2].note) == ("Seen as class 2", "10 of 40 images below the threshold, 25 %.")
    neither = parts(data({"photos": "input"}, with_flags=False), None)[1].groups
    assert neither[0].note == "40 images."
    assert class_title(7, names) == "class 7"


def test_the_other_end_says_why_a_high_score_matters_and_other_sources_follow():
    groups = parts(data({"known": "in_distribution", "photos": "input"}), None)[2].groups
    notes = {group.title: group.note for group in groups}
    assert "the classifier would be sure of a wrong answer" in notes["photos: highest scores"].lower()
    assert notes["known, known images: highest scores"] == "What the classifier knows best."
    assert [own["index"] for group in groups for own in group.rows if group.title.startswith("photos")] == list(
        range(1000, 994, -1)
    )
    assert [own["index"] for own in groups[-1].rows] == list(range(6))
    assert groups[-1].title == "known, known images: lowest scores"


def test_a_run_without_images_shows_none():
    assert parts(data({"photos": "input"}, images=0), None) == []


def test_every_row_of_a_group_is_of_one_source():
    found = parts(data({"a": "input", "b": "input"}, flagged=9), None)
    for group in itertools.chain.from_iterable(part.groups for part in found):
        assert len({own["source"] for own in group.rows}) == 1
