"""Parts of a batch on several cores."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from transforms import batch_parts


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


@pytest.mark.parametrize(
    ("side", "bits", "values", "at_once"),
    [
        (32, 32, None, 12),
        (32, 16, None, 24),
        (224, 32, None, 8),
        # DenseNet-BC-100-12, a small network, and one that computes nothing for an image.
        (32, 32, 14_300_000, 12),
        (28, 32, 93_600, 21),
        (224, 32, 23, 13),
        (32, 32, 0, 682),
    ],
)
def test_a_part_fits_into_a_cache_but_is_worth_starting(side, bits, values, at_once):
    assert batch_parts.images_at_once((side, side, 3), bits, values) == at_once


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
    assert batch_parts.cores() == cores


def test_with_a_gpu_a_batch_stays_whole(monkeypatch):
    monkeypatch.setattr(batch_parts.tf.config, "list_physical_devices", lambda kind: ["gpu"])
    assert batch_parts.cores() == 1
    assert [len(part) for part in batch_parts.split(np.zeros((64, 32, 32, 1), np.float32), 12)] == [64]
