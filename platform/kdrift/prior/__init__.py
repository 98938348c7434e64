"""Priors: the bundle on disk, what it says of itself, published checkpoints, and the adapter to a score model."""
