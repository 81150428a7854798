"""Out-of-distribution scores for every image of a large archive: ODIN on Apache Beam.

The public names, imported on first use, so that importing this package imports neither TensorFlow nor Beam.
docs/api.md groups them by task.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odin_beam.pipeline.errors import UsageError as UsageError
    from odin_beam.pipeline.launch.shards import Shards as Shards
    from odin_beam.transforms import __version__ as __version__
    from odin_beam.transforms.calibration.calibration_file import Calibration as Calibration
    from odin_beam.transforms.calibration.calibration_file import read_calibration as read_calibration
    from odin_beam.transforms.calibration.flag_rule import FlagRule as FlagRule
    from odin_beam.transforms.calibration.flag_shards import FlagShards as FlagShards
    from odin_beam.transforms.detectors.odin_settings import OdinSettings as OdinSettings
    from odin_beam.transforms.detectors.registry import DETECTORS as DETECTORS
    from odin_beam.transforms.errors import ImageError as ImageError
    from odin_beam.transforms.errors import OdinBeamError as OdinBeamError
    from odin_beam.transforms.images.geometry import Geometry as Geometry
    from odin_beam.transforms.metrics.detection_metrics import DetectionMetrics as DetectionMetrics
    from odin_beam.transforms.metrics.detection_metrics import detection_metrics as detection_metrics
    from odin_beam.transforms.metrics.score_histogram import ScoreHistogram as ScoreHistogram
    from odin_beam.transforms.metrics.summarize_scores import SummarizeScores as SummarizeScores
    from odin_beam.transforms.model.classifier import Classifier as Classifier
    from odin_beam.transforms.model.classifier import load_classifier as load_classifier
    from odin_beam.transforms.model.preprocessing import Preprocessing as Preprocessing
    from odin_beam.transforms.scoring.odin_scorer import OdinScorer as OdinScorer
    from odin_beam.transforms.scoring.score_shards import ScoreShards as ScoreShards
    from odin_beam.transforms.scoring.settings import ScoreSettings as ScoreSettings
    from odin_beam.transforms.shards.shard import FeatureNames as FeatureNames
    from odin_beam.transforms.shards.shard import Shard as Shard

# A test compares these with the imports above, which are for type checkers.
_WHERE = {
    "Calibration": "transforms.calibration.calibration_file",
    "Classifier": "transforms.model.classifier",
    "DETECTORS": "transforms.detectors.registry",
    "DetectionMetrics": "transforms.metrics.detection_metrics",
    "FeatureNames": "transforms.shards.shard",
    "FlagRule": "transforms.calibration.flag_rule",
    "FlagShards": "transforms.calibration.flag_shards",
    "Geometry": "transforms.images.geometry",
    "ImageError": "transforms.errors",
    "OdinBeamError": "transforms.errors",
    "OdinScorer": "transforms.scoring.odin_scorer",
    "OdinSettings": "transforms.detectors.odin_settings",
    "Preprocessing": "transforms.model.preprocessing",
    "ScoreHistogram": "transforms.metrics.score_histogram",
    "ScoreSettings": "transforms.scoring.settings",
    "ScoreShards": "transforms.scoring.score_shards",
    "Shard": "transforms.shards.shard",
    "Shards": "pipeline.launch.shards",
    "SummarizeScores": "transforms.metrics.summarize_scores",
    "UsageError": "pipeline.errors",
    "__version__": "transforms",
    "detection_metrics": "transforms.metrics.detection_metrics",
    "load_classifier": "transforms.model.classifier",
    "read_calibration": "transforms.calibration.calibration_file",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
