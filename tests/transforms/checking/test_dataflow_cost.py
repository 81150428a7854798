"""Arithmetic of the cost on paper."""

import pytest

from odin_beam.transforms.checking.dataflow_cost import GB_PRICE, VCPU_PRICE, Load, PassWork, Worker, estimate

WORKER = Worker("GPU", "machine", 2, 10, teraflops=10, bandwidth=100, gpu_price=1.0)


@pytest.mark.parametrize(
    ("load", "rate", "binds"),
    [
        (Load("heavy", 40, 1, 1e9), 100, "arithmetic"),
        (Load("bulky", 0.01, 700, 1e9), 100, "GPU memory"),
        (Load("large files", 0.01, 1, 50), 100, "decoding"),
        (Load("unknown files", 40, 1, None), 100, "arithmetic"),
    ],
)
def test_the_slowest_part_binds(load, rate, binds):
    found = estimate(load, WORKER, 10**9, 4)
    assert (found.rate, found.binds) == (pytest.approx(rate), binds)
    assert found.hours == pytest.approx(1e9 / rate / 3600 / 4)
    assert found.dollars == pytest.approx(found.hours * 4 * (2 * VCPU_PRICE + 10 * GB_PRICE + 1))


def test_the_dollars_do_not_depend_on_the_number_of_workers():
    one, many = (estimate(Load("any", 2, 30, 400), WORKER, 10**8, workers) for workers in (1, 64))
    assert one.dollars == pytest.approx(many.dollars)
    assert one.hours == pytest.approx(64 * many.hours)


def test_a_pass_reads_and_writes_four_bytes_per_value():
    load = Load.of_passes("network", PassWork(operations=500_000_000, values=1_000_000), 3, None)
    assert (load.gigaflops, load.megabytes) == (pytest.approx(1.5), pytest.approx(24))
