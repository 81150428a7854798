"""Out-of-distribution scores for every image of a large archive: ODIN on Apache Beam."""
