"""From a model file to a function from pixels to logits."""
