"""Arithmetic of the cost on paper."""

import pytest

from benchmarks.dataflow_cost import GB_PRICE, IMAGES, VCPU_PRICE, Load, Worker, estimate

WORKER = Worker("GPU", "machine", 2, 10, teraflops=10, bandwidth=100, gpu_price=1.0)


@pytest.mark.parametrize(
    ("load", "rate", "binds"),
    [
        (Load("heavy", 40, 1, 1e9), 100, "arithmetic"),
        (Load("bulky", 0.01, 700, 1e9), 100, "GPU memory"),
        (Load("large files", 0.01, 1, 50), 100, "decoding"),
    ],
)
def test_the_slowest_part_binds(load, rate, binds):
    found = estimate(load, WORKER, 4)
    assert (found.rate, found.binds) == (pytest.approx(rate), binds)
    assert found.hours == pytest.approx(IMAGES / rate / 3600 / 4)
    assert found.dollars == pytest.approx(found.hours * 4 * (2 * VCPU_PRICE + 10 * GB_PRICE + 1))
