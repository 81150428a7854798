"""What `check --images` prints: what so many images cost, here and on Dataflow."""

from odin_beam.transforms.checking.dataflow_cost import PRICES, WORKERS, Load, estimate
from odin_beam.transforms.checking.soundness import Soundness


def here(images: int, soundness: Soundness) -> str:
    """Hours on this machine, at the measured speeds."""
    speeds = (
        ("with the perturbation", soundness.images_per_second),
        ("with --epsilon 0", soundness.unperturbed_per_second),
    )
    lines = [f"cost         of {images:,} images"]
    for i, (how, speed) in enumerate(speeds):
        start = "  this machine" if i == 0 else ""
        lines.append(f"{start:<15}{images / speed / 3600:>10,.1f} h {how}, at {speed:,.0f} images/s")
    return "\n".join(lines)


def on_dataflow(images: int, odin: Load, unperturbed: Load) -> str:
    """Hours and dollars of one worker of each kind, with the perturbation and without.

    Args:
      images: number of them.
      odin: of all passes.
      unperturbed: with epsilon 0.
    """
    decoded = "not counted" if odin.decoded is None else f"{odin.decoded:,.0f} images/s per core"
    lines = [
        f"  Dataflow, on paper: nothing was run there; {PRICES}, us-central1, without disks",
        f"  per image: {_work(odin)}; with --epsilon 0 {_work(unperturbed)}; decoding {decoded}",
        "  one worker; N workers take 1/N of the hours for the same dollars",
        f"  {'':<28}{'with the perturbation':^42}  {'with --epsilon 0':^42}".rstrip(),
        f"  {'':<28}{_TITLES}  {_TITLES}",
    ]
    for worker in WORKERS:
        cells = []
        for load in (odin, unperturbed):
            found = estimate(load, worker, images)
            cells.append(f"{found.rate:>8,.0f}{found.hours:>11,.1f}{found.dollars:>11,.2f}  {found.binds:<10}")
        lines.append(f"  {worker.title:<28}{'  '.join(cells)}".rstrip())
    return "\n".join(lines)


_TITLES = f"{'images/s':>8}{'hours':>11}{'dollars':>11}  {'limited by':<10}"


def _work(load: Load) -> str:
    return f"{load.gigaflops:.3g} GFLOP and {load.megabytes:.3g} MB"
