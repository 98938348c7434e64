"""Search of a method's settings on Ray Tune."""
