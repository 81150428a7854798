"""What all fitted detectors together cost beside ODIN, in alternating batches of one process.

    PYTHONPATH=. python benchmarks/fitted_cost.py --networks densenet,resnet50 --rounds 7

Each network scores the same batch without a reference and with one, in turns: seconds and CPU seconds per image,
medians, and the medians of the rounds' ratios. References are fitted to made-up features, as many as the bank has rows;
what they contain does not matter for the time.
"""

import argparse
import os
import statistics
import tempfile
import time

import numpy as np

from benchmarks.networks import NETWORKS, Network, build, cifar_images

COLUMNS = ("s/image", "CPU s/image", "with: s", "CPU s", "ratio", "CPU ratio", "MB")


def made_up_reference(settings, classifier, path: str, images: int, seed: int = 0) -> None:
    """Writes a reference of random features for a classifier; float32 rectified noise around class means."""
    from odin_beam.transforms.fitting.bank import Bank
    from odin_beam.transforms.fitting.clip import FeatureHistogram
    from odin_beam.transforms.fitting.moments import Moments
    from odin_beam.transforms.fitting.reference import fit_reference
    from odin_beam.transforms.fitting.reference_file import write_reference
    from odin_beam.transforms.fitting.residual import vim_residual_sum, vim_subspace
    from odin_beam.transforms.scoring.scorer import last_layer_weights
    from odin_beam.transforms.settings_json import to_json

    weights, rng = last_layer_weights(classifier), np.random.default_rng(seed)
    width, classes = weights.kernel.shape
    labels = np.arange(images) % classes
    means = rng.normal(0, 1, (classes, width))
    features = np.maximum(means[labels] + rng.normal(0, 0.5, (images, width)), 0).astype(np.float32)
    logits = features.astype(np.float64) @ weights.kernel + weights.bias
    moments, histogram, bank = Moments(classes, width), FeatureHistogram(), Bank(classes, width, images)
    moments.add(features, logits, labels, labels)
    histogram.add(features)
    numbers = np.arange(images).astype(np.uint64)
    # Above 0, so that nnguide has something to guide by.
    bank.add(features, np.abs(logits).max(axis=1) + 1, labels, numbers, numbers)
    subspace = vim_subspace(moments, weights.kernel, weights.bias)
    residuals = vim_residual_sum(features, *subspace) if subspace else 0.0
    names = ("model_digest", "preprocessing", "geometry", "output_name", "model_factory", "precision")
    about = {name: to_json(getattr(settings, name)) for name in names}
    write_reference(path, fit_reference(moments, histogram, bank, weights, subspace, residuals, about))


def measure(network: Network, rounds: int, bank: int) -> str:
    """A line of the table."""
    from odin_beam.transforms.model.files import model_digest
    from odin_beam.transforms.scoring.own_reference import with_reference
    from odin_beam.transforms.scoring.scorer import Scorer
    from odin_beam.transforms.scoring.settings import ScoreSettings

    images = cifar_images(network.batch_size, network.image_size)
    with tempfile.TemporaryDirectory() as folder:
        path, reference = os.path.join(folder, "model.keras"), os.path.join(folder, "reference.npz")
        build(network, images).save(path)
        plain = ScoreSettings(path, model_digest(path), batch_size=network.batch_size)
        scorers = [Scorer(plain)]
        made_up_reference(plain, scorers[0].classifier, reference, bank)
        size = os.path.getsize(reference)
        scorers.append(Scorer(with_reference(plain, reference)[0]))
        for scorer in scorers:
            scorer.score(images)
        taken: list[list[tuple[float, float]]] = [[], []]
        for round_number in range(rounds):
            for which in (0, 1) if round_number % 2 else (1, 0):
                started, cpu = time.perf_counter(), time.process_time()
                scorers[which].score(images)
                taken[which].append((time.perf_counter() - started, time.process_time() - cpu))
    medians = [[statistics.median(column) / len(images) for column in zip(*times, strict=True)] for times in taken]
    ratios = [statistics.median(w[i] / p[i] for p, w in zip(*taken, strict=True)) for i in (0, 1)]
    figures = "".join(f"{seconds:>13.4f}" for own in medians for seconds in own)
    return f"{network.title:24}{figures}{''.join(f'{ratio:>13.3f}' for ratio in ratios)}{size / 1e6:>13,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="densenet,resnet50", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--bank", type=int, default=10_000, help="(default: %(default)s)")
    arguments = parser.parse_args()
    print(f"{'':24}{''.join(f'{column:>13}' for column in COLUMNS)}", flush=True)
    for name in arguments.networks.split(","):
        print(measure(NETWORKS[name], arguments.rounds, arguments.bank), flush=True)


if __name__ == "__main__":
    main()
