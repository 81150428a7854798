"""From a `tf.train.Example` to the pixels that a classifier receives: parse, decode, fit, scale to [0, 1]."""
