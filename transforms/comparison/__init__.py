"""Whether one batch of scored images has moved from another."""
