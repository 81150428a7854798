"""From a `tf.train.Example` to the pixels that a classifier sees: parse, decode, fit, scale to [0, 1]."""
