"""Files on any file system that Beam supports: listing, reads that retry transient errors, atomic writes."""
