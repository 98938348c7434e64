"""Posterior samplers, one file each."""
