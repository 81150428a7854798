"""What the jobs are built from: Beam transforms and the pure functions they call."""

__version__ = "0.1.0"
