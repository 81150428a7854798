"""Parts of a batch on several cores."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from transforms import batch_parts


@pytest.mark.parametrize(
    ("count", "side", "cores", "sizes"),
    [
        (64, 32, 1, [11, 11, 11, 11, 10, 10]),
        (64, 32, 2, [11, 11, 11, 11, 10, 10]),
        (24, 32, 2, [12, 12]),
        (25, 32, 2, [7, 6, 6, 6]),
        (1, 32, 2, [1]),
        (3, 32, 8, [1, 1, 1]),
        (9, 224, 2, [5, 4]),
        (17, 224, 2, [5, 4, 4, 4]),
        (64, 1, 2, [32, 32]),
    ],
)
def test_every_core_has_as_many_parts_of_about_the_same_size(count, side, cores, sizes, monkeypatch):
    monkeypatch.setattr(batch_parts.os, "cpu_count", lambda: cores)
    pixels = np.arange(count, dtype=np.float32)[:, None, None, None] * np.ones((1, side, side, 1), np.float32)
    parts = batch_parts.split(pixels)
    assert [len(part) for part in parts] == sizes
    np.testing.assert_array_equal(np.concatenate(parts), pixels)


def test_the_parts_do_not_depend_on_the_process_share(monkeypatch):
    pixels, sizes = np.zeros((64, 32, 32, 1), np.float32), []
    for share in ("1", "2", "7"):
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", share)
        sizes.append([len(part) for part in batch_parts.split(pixels)])
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
    assert [len(part) for part in batch_parts.split(np.zeros((64, 32, 32, 1), np.float32))] == [64]
