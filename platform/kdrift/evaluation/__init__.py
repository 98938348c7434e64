"""Whole stores reconstructed by a pool of Ray actors, and the tables of methods and masks that come of it."""
