"""The same classifier in float64, to tell a wrong rewriting of a model from one that only rounds differently."""

import keras

from odin_beam.transforms.model.classifier import Classifier, as_classifier


def float64_clone(classifier: Classifier) -> Classifier | None:
    """A classifier with the same layers, weights and preprocessing, whose layers compute in float64.

    Returns:
      None where there is none: a SavedModel, or a Keras model that its own description does not build again.
    """
    model = classifier.model
    if not isinstance(model, keras.Model):
        return None
    # A description may hold anything that a model does; what cannot be built again is not compared.
    try:
        clone = keras.models.model_from_json(model.to_json().replace('"float32"', '"float64"'))
        clone.set_weights(model.get_weights())
        double = as_classifier(clone, classifier.preprocessing, classifier.input_shape[:2])
    except Exception:
        return None
    return double if (double.head, double.classes) == (classifier.head, classifier.classes) else None
