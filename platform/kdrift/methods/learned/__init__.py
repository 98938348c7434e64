"""Learned reconstructions: a network that was trained to reconstruct, one image from the data."""
