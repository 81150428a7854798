"""Files on any file system that Beam knows: listed, read through transient errors, published whole."""
