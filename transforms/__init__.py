"""What the jobs are made of: Beam transforms and the pure functions they call."""

__version__ = "0.1.0"
