"""Names of classes are those of folders, whatever these contain."""

from odin_beam.transforms.ingest.labels_file import class_names_in, labels_file


def test_names_come_back_as_they_were_each_in_its_line():
    names = ["cat", "two words", "a\u2028b", "c\x85d", "e\x0cf", "not utf-8 \udcff", "ümlaut"]
    assert class_names_in(labels_file(names)) == names


def test_files_of_other_systems_are_read_and_empty_ends_do_not_count():
    assert class_names_in(b"\xef\xbb\xbfcat\r\ndog\r\n\r\n") == ["cat", "dog"]
    assert class_names_in(b"") == []
