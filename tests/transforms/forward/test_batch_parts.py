"""Parts of a batch on several cores."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from odin_beam.transforms.forward import batch_parts
from odin_beam.transforms.model import device


@pytest.mark.parametrize(
    ("count", "at_once", "cores", "sizes"),
    [
        (64, 12, 1, [11, 11, 11, 11, 10, 10]),
        (64, 12, 2, [11, 11, 11, 11, 10, 10]),
        (24, 12, 2, [12, 12]),
        (25, 12, 2, [7, 6, 6, 6]),
        (1, 12, 2, [1]),
        (3, 12, 8, [1, 1, 1]),
        (64, 1000, 2, [32, 32]),
    ],
)
def test_every_core_has_as_many_parts_of_about_the_same_size(count, at_once, cores, sizes, monkeypatch):
    monkeypatch.setattr(batch_parts.os, "cpu_count", lambda: cores)
    pixels = np.arange(count, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 4, 1), np.float32)
    parts = batch_parts.split(pixels, at_once)
    assert [len(part) for part in parts] == sizes
    np.testing.assert_array_equal(np.concatenate(parts), pixels)


_DENSENET = batch_parts.Work(values=14_250_000, largest=221_184, weights=760_000)
_WIDE_RESNET = batch_parts.Work(values=2_580_000, largest=36_992, weights=2_240_000)
_RESNET_50 = batch_parts.Work(values=47_600_000, largest=831_744, weights=25_600_000)


@pytest.mark.parametrize(
    ("side", "bits", "work", "megabytes", "at_once"),
    [
        (32, 32, None, 2, 12),
        (32, 16, None, 2, 24),
        (224, 32, None, 2, 8),
        (32, 32, _DENSENET, 2, 2),
        (32, 16, _DENSENET, 2, 4),
        (32, 32, _WIDE_RESNET, 2, 12),
        (32, 16, _WIDE_RESNET, 2, 24),
        # The filters are more than the maps.
        (32, 32, _WIDE_RESNET, 0.5, 8),
        # Nothing fits, or nobody knows into what.
        (32, 32, _DENSENET, 0.5, 12),
        (32, 32, _DENSENET, 0, 12),
        (224, 32, _RESNET_50, 2, 8),
        # A small network, and two that compute next to nothing for an image.
        (28, 32, batch_parts.Work(93_600, 21_632, 60_000), 2, 43),
        (224, 32, batch_parts.Work(23, 3, 0), 0, 27),
        (32, 32, batch_parts.Work(0, 0, 0), 0, 1365),
    ],
)
def test_a_part_fits_into_a_cache_but_is_worth_starting(side, bits, work, megabytes, at_once, monkeypatch):
    monkeypatch.setattr(batch_parts, "_cache_bytes", lambda: int(megabytes * 2**20))
    assert batch_parts.images_per_part((side, side, 3), bits, work) == at_once


@pytest.mark.parametrize(("said", "size"), [("2048K\n", 2 << 20), ("512K", 512 << 10), ("large", 0), (None, 0)])
def test_the_system_says_how_large_a_cache_is(said, size, monkeypatch, tmp_path):
    monkeypatch.setattr(batch_parts, "_CACHE", tmp_path / "size")
    if said is not None:
        (tmp_path / "size").write_text(said)
    assert batch_parts._cache_bytes() == size


def test_the_parts_do_not_depend_on_the_process_share(monkeypatch):
    pixels, sizes = np.zeros((64, 32, 32, 1), np.float32), []
    for share in ("1", "2", "7"):
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", share)
        sizes.append([len(part) for part in batch_parts.split(pixels, 12)])
    assert sizes[0] == sizes[1] == sizes[2]


def test_results_come_in_order_whatever_ends_first():
    order = threading.Barrier(2)

    def work(part):
        # Both run at the same time, or neither gets past this.
        order.wait(timeout=60)
        return int(part[0])

    with ThreadPoolExecutor(2) as pool:
        assert batch_parts.compute(work, [np.array([3]), np.array([1])], pool) == [3, 1]


def test_an_error_is_raised_when_nothing_runs_any_more():
    running, failed = set(), threading.Event()

    def work(part):
        name = int(part[0])
        running.add(name)
        try:
            if name == 0:
                failed.set()
                raise MemoryError("part 0")
            failed.wait(60)
            return name
        finally:
            running.remove(name)

    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(MemoryError, match="part 0"):
            batch_parts.compute(work, [np.array([i]) for i in range(20)], pool)
        assert not running


@pytest.mark.parametrize(
    ("said", "cores"), [("3", 3), ("0", os.cpu_count()), ("", os.cpu_count()), ("many", os.cpu_count())]
)
def test_the_cores_are_this_process_share(monkeypatch, said, cores):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", said)
    assert device.cores() == cores


def test_with_a_gpu_a_batch_stays_whole(monkeypatch):
    monkeypatch.setattr(device.tf.config, "list_physical_devices", lambda kind: ["gpu"])
    assert device.cores() == 1
    assert [len(part) for part in batch_parts.split(np.zeros((64, 32, 32, 1), np.float32), 12)] == [64]
