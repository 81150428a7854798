"""What `check --images` prints, against arithmetic by hand."""

from odin_beam.pipeline.show.cost_text import here, on_dataflow
from odin_beam.transforms.checking.dataflow_cost import Load, PassWork
from odin_beam.transforms.checking.soundness import Soundness

WORK = PassWork(operations=1_000_000_000, values=1_000_000)


def loads(decoded):
    return [Load.of_passes("", WORK, passes, decoded) for passes in (3, 1)]


def test_hours_here_are_images_over_the_measured_speed():
    soundness = Soundness(1.0, True, 0.0, images_per_second=100.0, unperturbed_per_second=250.0, as_loaded=None)
    assert here(9_000_000, soundness).splitlines() == [
        "cost         of 9,000,000 images",
        "  this machine       25.0 h with the perturbation, at 100 images/s",
        "                     10.0 h with --epsilon 0, at 250 images/s",
    ]


def test_a_worker_of_dataflow_is_limited_by_its_slowest_part():
    lines = on_dataflow(10**8, *loads(decoded=500.0)).splitlines()
    assert lines[0] == (
        "  Dataflow, on paper: nothing was run there; list prices of October 2026, us-central1, without disks"
    )
    assert "per image: 3 GFLOP and 24 MB; with --epsilon 0 1 GFLOP and 8 MB; decoding 500 images/s per core" in lines[1]
    # 8.1 TFLOP/s x 0.4 / 3 GFLOP; 4 cores x 500; 4 x 0.056 + 15 x 0.003557 + 0.42 dollars an hour.
    assert lines[-3].split() == [
        *("T4,", "n1-standard-4", "1,080", "25.7", "17.94", "arithmetic"),
        *("2,000", "13.9", "9.69", "decoding"),
    ]


def test_without_images_decoding_is_not_counted():
    text = on_dataflow(10**8, *loads(decoded=None))
    assert "decoding not counted" in text
    assert "limited by" in text and " decoding\n" not in text
