"""Searches on Ray Tune, of a method's settings and of a training's."""
