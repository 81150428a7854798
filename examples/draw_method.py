r"""Draws what ODIN does to an image, and what temperature and epsilon do to the scores of two sets of images.

    python examples/draw_method.py --model classifier.keras --in_distribution 'shards/cifar10-*.tfrecord' \
        --out_distribution 'shards/tiny-*.tfrecord' --count 250 --output method

Writes method-steps.png (an image of each set, the sign of its input gradient, and the perturbed image) and
method-scores.png (histograms of the scores, and AUROC over temperature and over epsilon). Images of another size than
the model's input are cropped or padded at the centre. docs/temperature-and-epsilon.md explains both pictures.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import tensorflow as tf

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from odin_beam.transforms.detectors import odin
from odin_beam.transforms.detectors.odin_settings import OdinGrid
from odin_beam.transforms.detectors.score_function import ScoreFunction
from odin_beam.transforms.model.classifier import Classifier, load_classifier

# Okabe and Ito's colours, told apart by colour-blind readers too.
IN_COLOUR, OUT_COLOUR = "#0072B2", "#D55E00"
TEMPERATURES = (1.0, 2.0, 5.0, 10.0, 100.0, 1000.0)
EPSILONS = (0.0, 0.0007, 0.0014, 0.0028, 0.0056)
# The settings whose histograms are drawn, and what they are.
PANELS = {
    (1.0, 0.0): "T = 1, eps = 0: largest softmax",
    (1000.0, 0.0): "T = 1000, eps = 0",
    (1000.0, 0.0014): "T = 1000, eps = 0.0014: ODIN",
}
# Of the second perturbed image: a step that can be seen.
EXAGGERATED = 0.05


def read_pixels(pattern: str, shape: tuple[int, int, int], count: int) -> np.ndarray:
    """float32 [N, H, W, C] in [0, 1], the first images of some shards, N <= count.

    Raises:
      SystemExit: no file matches the pattern.
    """
    files = sorted(tf.io.gfile.glob(pattern))
    if not files:
        raise SystemExit(f"draw_method: no file matches {pattern}")
    height, width, channels = shape
    images = []
    for record in tf.data.TFRecordDataset(files).take(count):
        image = tf.train.Example.FromString(record.numpy()).features.feature["image"].bytes_list.value[0]
        decoded = tf.io.decode_image(image, channels, expand_animations=False)
        images.append(tf.image.resize_with_crop_or_pad(decoded, height, width).numpy())
    return np.stack(images).astype(np.float32) / 255


def readable(scores: np.ndarray, temperature: float, classes: int) -> np.ndarray:
    """The column `odin_logit` of these scores, `T (log S + log K)`, above T = 1; there the scores are readable."""
    return scores if temperature == 1 else temperature * (np.log(scores) + np.log(classes))


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Share of pairs in which the in-distribution score is the higher; a tie counts one half."""
    ordered = np.sort(outside)
    below, not_above = (np.searchsorted(ordered, inside, side) for side in ("left", "right"))
    return float(np.mean(below + not_above) / 2 / len(ordered))


def draw_steps(classifier: Classifier, images: np.ndarray, names: tuple[str, str]) -> plt.Figure:
    """A row for each of two images: itself, the sign of its gradient, a true step and an exaggerated one.

    Args:
      classifier: with its preprocessing.
      images: float32 [2, H, W, C] in [0, 1].
      names: what they are.
    """
    temperature, epsilon = 1000.0, 0.0014
    _, (sign,) = odin.gradient_signs(classifier.logits, tf.constant(images), [temperature])
    moved = {eps: odin.perturbed(tf.constant(images), sign, eps) for eps in (0.0, epsilon, EXAGGERATED)}
    score = {eps: odin.score_logit(classifier.logits(x), temperature).numpy() for eps, x in moved.items()}
    figure, rows = plt.subplots(2, 4, figsize=(10, 5.4), layout="constrained")
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        pictures = {
            f"{name}\nscore {score[0.0][i]:.2f}": images[i],
            "sign of its gradient, per channel\nbright: +1, dark: -1": (sign[i] + 1) / 2,
            f"minus {epsilon} x sign\nscore {score[epsilon][i]:.2f}": moved[epsilon][i],
            f"minus {EXAGGERATED} x sign, to make it visible\nscore {score[EXAGGERATED][i]:.2f}": moved[EXAGGERATED][i],
        }
        for axes, (title, picture) in zip(row, pictures.items(), strict=True):
            shown = np.clip(picture, 0, 1)
            axes.imshow(shown if shown.shape[-1] == 3 else shown[..., 0], cmap="gray", vmin=0, vmax=1)
            axes.set_title(title, fontsize=9)
            axes.set_axis_off()
    return figure


def grid_scores(classifier: Classifier, pixels: np.ndarray, grid: OdinGrid) -> dict[tuple[float, float], np.ndarray]:
    """(T, epsilon) -> the images' scores S, float64 [N], for each cell of a grid."""
    columns = ScoreFunction(classifier, grid, ("odin",))(pixels).columns
    return {(cell.temperature, cell.epsilon): columns[name] for name, cell in grid.cells.items()}


def draw_scores(classifier: Classifier, inside: np.ndarray, outside: np.ndarray, names: tuple[str, str]) -> plt.Figure:
    """Histograms of both sets under `PANELS`, AUROC over temperature, and AUROC over epsilon at T = 1000.

    Args:
      classifier: with its preprocessing.
      inside: float32 [N, H, W, C] in [0, 1], in-distribution images.
      outside: likewise, foreign images.
      names: of both sets.
    """
    scores = []
    for pixels in (inside, outside):
        cells = grid_scores(classifier, pixels, OdinGrid(TEMPERATURES, EPSILONS[:1]))
        scores.append(cells | grid_scores(classifier, pixels, OdinGrid(TEMPERATURES[-1:], EPSILONS)))
    aurocs = {cell: 100 * auroc(scores[0][cell], scores[1][cell]) for cell in scores[0]}
    figure, axes = plt.subplot_mosaic("aabbcc;tttEEE", figsize=(10, 6), layout="constrained")
    for panel, (cell, title) in zip("abc", PANELS.items(), strict=True):
        values = [readable(one[cell], cell[0], classifier.classes) for one in scores]
        edges = np.histogram_bin_edges(np.concatenate(values), 30)
        for one, colour, name in zip(values, (IN_COLOUR, OUT_COLOUR), names, strict=True):
            weights = np.full(len(one), 100 / len(one))
            axes[panel].hist(one, edges, weights=weights, color=colour, alpha=0.6, label=name)
        axes[panel].set_title(f"{title}\nAUROC {aurocs[cell]:.1f} %", fontsize=10)
        axes[panel].set_xlabel("largest softmax" if cell[0] == 1 else "odin_logit")
    axes["a"].set_ylabel("share of images, %")
    axes["a"].legend(frameon=False, loc="upper left")
    axes["t"].semilogx(TEMPERATURES, [aurocs[temperature, 0.0] for temperature in TEMPERATURES], "o-", color="black")
    axes["t"].set_xlabel("temperature, at eps = 0")
    axes["E"].plot(EPSILONS, [aurocs[TEMPERATURES[-1], epsilon] for epsilon in EPSILONS], "o-", color="black")
    axes["E"].set_xlabel(f"epsilon, at T = {TEMPERATURES[-1]:g}")
    for panel in "tE":
        axes[panel].set_ylabel("AUROC, %")
    for panel in axes.values():
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.3)
    return figure


def main(argv: list[str] | None = None) -> int:
    """Draws both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", required=True, metavar="FILE", help="a classifier that takes pixels in [0, 1]")
    parser.add_argument("--in_distribution", required=True, metavar="GLOB", help="TFRecord shards of known images")
    parser.add_argument("--out_distribution", required=True, metavar="GLOB", help="TFRecord shards of foreign images")
    parser.add_argument("--count", type=int, default=250, metavar="N", help="images of each (default: %(default)s)")
    parser.add_argument("--shown", type=int, default=0, metavar="INDEX", help="image to show (default: %(default)s)")
    parser.add_argument("--names", default="known,foreign", metavar="A,B", help="of the sets (default: %(default)s)")
    parser.add_argument("--output", required=True, metavar="PREFIX", help="PREFIX-steps.png and PREFIX-scores.png")
    given = parser.parse_args(argv)
    classifier = load_classifier(given.model)
    patterns = (given.in_distribution, given.out_distribution)
    inside, outside = (read_pixels(pattern, classifier.input_shape, given.count) for pattern in patterns)
    names = tuple(given.names.split(","))
    shown = np.stack([inside[given.shown], outside[given.shown]])
    figures = {
        "steps": draw_steps(classifier, shown, names),
        "scores": draw_scores(classifier, inside, outside, names),
    }
    for kind, figure in figures.items():
        path = Path(f"{given.output}-{kind}.png")
        figure.savefig(path, dpi=100)
        plt.close(figure)
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
