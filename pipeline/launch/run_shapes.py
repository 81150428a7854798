"""What the jobs rely on in the JSON files of a run's folder, as shapes of `json_shape`."""

from typing import Any

from odin_beam.transforms.metrics.detection_metrics import METRICS
from odin_beam.transforms.tables import layout
from odin_beam.transforms.tables.json_shape import COUNT, EVERY, NUMBER, RATE, MayLack

_FAILED = [{"source": str, "path": str, "reason": str}]
_FLAGGED = {
    "images": COUNT,
    "flagged": COUNT,
    "without_score": COUNT,
    "without_calibration": COUNT,
    "share": (RATE, None),
    "false_flags": (NUMBER, None),
    "false_flags_low": (NUMBER, None),
    "false_flags_high": (NUMBER, None),
    "unlike_at_least": (COUNT, None),
    "design_effect": (NUMBER, None),
    "clustered": (
        None,
        {"images": COUNT, "false_flags_low": COUNT, "false_flags_high": COUNT, "unlike_at_least": COUNT},
    ),
    "verdict": (None, "more", "fewer", "as_expected"),
}
_DISCOVERIES = {
    "fdr": RATE,
    "largest_p_value": RATE,
    "smallest_possible_p_value": RATE,
    "images": COUNT,
    "sources": [str],
    "flagged": COUNT,
    "false_discovery_share": (RATE, None),
}
_EFFECT = {"value": RATE, "low": RATE, "high": RATE, "shards": (RATE, None)}
_VERDICT = {
    "verdict": ("moved", "no relevant move", "cannot say"),
    "reason": (None, "images", "shards"),
    "images_needed": (COUNT, None),
}
_BATCH = {"scores": str, "source": str, "shards": COUNT, "images": COUNT}

RUN_SHAPES: dict[str, Any] = {
    layout.RUN: {
        "model": str,
        "settings": (
            {"model_digest": str, "features_version": COUNT},
            {"model_digest": str, "odin": dict, "detectors": [str]},
        ),
        "versions": {EVERY: str},
        "class_names": MayLack([str]),
    },
    layout.SUMMARY: {
        "complete": bool,
        "calibrated": bool,
        "shards": COUNT,
        "scored": COUNT,
        "rejected": COUNT,
        "rejected_share": RATE,
        "failed_shards": _FAILED,
        "orphaned_scores": [str],
        "sources": {EVERY: {"scored": COUNT, "shards": COUNT, "rejected": COUNT}},
        "seconds": NUMBER,
        "settings": ({"features_version": COUNT}, {"odin": dict}),
    },
    layout.METRICS: {
        "listed_shards": COUNT,
        "scored_shards": COUNT,
        "in_distribution": {EVERY: {"count": COUNT, "accuracy": (RATE, None), "threshold_at_95_tpr": {EVERY: NUMBER}}},
        "pairs": [
            {
                **{"in_distribution": str, "out_distribution": str, "detector": str},
                **{"in_count": COUNT, "out_count": COUNT, "exact": bool},
                **{name: RATE if metric.shown else NUMBER for name, metric in METRICS.items()},
            }
        ],
        "groups": MayLack(
            [
                {
                    **{"in_distribution": str, "group": str, "sources": [str], "detector": str},
                    **{name: RATE for name, metric in METRICS.items() if metric.shown},
                }
            ]
        ),
    },
    layout.TOP: {
        "rows": [
            {
                **{"source": str, "shard": str, "index": COUNT, "offset": (COUNT, None), "id": str, "uri": (str, None)},
                **{"label": (COUNT, None), "prediction": COUNT, "class_name": (str, None)},
                **{"score": NUMBER, "p_value": (RATE, None), "is_ood": (bool, None)},
            }
        ],
        "failed_shards": _FAILED,
    },
    layout.COMPARISONS: {
        "complete": bool,
        "verdict": _VERDICT["verdict"],
        "reference": _BATCH,
        "new": _BATCH,
        "shards_against_rest": {"count": COUNT, "enough": bool},
        "detectors": [
            {"detector": str, **_VERDICT, "reference_images": COUNT, "new_images": COUNT, "exact": bool}
            | {"auroc": _EFFECT, "ks": _EFFECT}
        ],
        "without_scores": [str],
        "classes": (
            None,
            {
                **_VERDICT,
                "total_variation": _EFFECT,
                "changed_most": [
                    {"class": COUNT, "name": (str, None), "reference_share": RATE, "new_share": RATE},
                ],
            },
        ),
        "chosen": str,
        "unlike": (None, {"threshold": NUMBER, **_FLAGGED}),
        "lowest": [
            {"shard": str, "index": COUNT, "id": str, "prediction": COUNT, "class_name": (str, None)}
            | {"score": NUMBER, "p_value": RATE}
        ],
        "failed_shards": _FAILED,
        "scores_state": str,
        "seconds": NUMBER,
    },
    layout.FLAGS: {
        "complete": bool,
        "detector": str,
        "per_class": bool,
        "classes_with_own_scores": COUNT,
        "calibration": {
            **{"images": COUNT, "sources": [str], "path": MayLack(str)},
            **{"labels": MayLack(str), "labelled_images": MayLack([COUNT])},
        },
        "failed_shards": _FAILED,
        "seconds": NUMBER,
        "scores_state": str,
        "together": (None, {"sources": [str], **_FLAGGED}),
        "rule": (_DISCOVERIES, {"tpr": RATE, "threshold": (NUMBER, None)}),
        "sources": {
            EVERY: (
                {"role": "in_distribution", "realised_tpr": (RATE, None), **_FLAGGED},
                {"role": "out_distribution", "realised_fpr": (RATE, None), **_FLAGGED},
                {"role": "surrogate", **_FLAGGED},
                {"role": "input", **_FLAGGED},
            )
        },
    },
}
