"""Which two images make one."""

import pytest

from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images.digest import half_of, image_digest
from odin_beam.transforms.images.example import ImageRecord
from odin_beam.transforms.shards import pairs as pairs_module
from odin_beam.transforms.shards.pairs import pairs
from odin_beam.transforms.shards.records import Record


def record(index, label=None):
    return Record(index, None, b"image %d" % index, label=label)


def parse(record):
    if record.payload == b"broken":
        raise ImageError("not_an_example", "")
    return ImageRecord(record.payload, record.label, None, None)


def half(record):
    return half_of(image_digest(record.payload))


def made_of(records):
    return [(made.index, made.partner and made.partner.index) for made in pairs(records, parse, "path")]


def test_each_image_is_in_one_pair_at_most_and_stays_in_its_half():
    records = [record(i) for i in range(100)]
    made = made_of(records)
    used = [index for pair in made for index in pair]
    assert len(used) == len(set(used)) >= 98
    assert [second for second, _ in made] == sorted(second for second, _ in made)
    assert all(first < second and half(records[first]) == half(records[second]) for second, first in made)


def test_partners_are_of_different_classes_even_in_a_sorted_shard():
    records = [record(i, label=i // 50) for i in range(100)]
    made = made_of(records)
    assert len(made) > 40
    assert all(records[first].label != records[second].label for second, first in made)


def test_one_class_gives_no_pairs_and_an_image_without_a_label_pairs_with_any():
    assert made_of([record(i, label=3) for i in range(20)]) == []
    records = [record(i, label=3 if i % 2 else None) for i in range(40)]
    assert len(made_of(records)) >= 10


def test_bad_records_pass_without_a_partner():
    bad = Record(0, None, None, ("bad_payload_checksum", ""))
    broken = Record(1, None, b"broken")
    assert made_of([bad, broken, record(2)]) == [(0, None), (1, None)]
    assert made_of([]) == []


def test_copies_of_an_image_lie_in_one_half_wherever_they_are():
    assert image_digest(b"x", "a", 1) == image_digest(b"x", "b", 7)
    assert image_digest(b"", "a", 1) != image_digest(b"", "a", 2)
    halves = [half_of(image_digest(b"%d" % i)) for i in range(1000)]
    assert 400 < sum(halves) < 600


@pytest.mark.parametrize(("name", "least"), [("_MAX_WAITING", 3), ("limits", None)])
def test_waiting_records_are_bounded(monkeypatch, name, least):
    """Past the limit, those that have waited longest go without a partner."""
    if least:
        monkeypatch.setattr(pairs_module, name, least)
    else:
        monkeypatch.setattr(pairs_module.limits, "MAX_BATCH_BYTES", 3 * len(b"image 00"))
    records = [record(10 + i, label=0) for i in range(60)] + [record(70 + i, label=1) for i in range(29)]
    firsts = [first for _, first in made_of(records)]
    assert 0 < len(firsts) <= 6
    assert min(firsts) > 50
