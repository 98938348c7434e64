"""Classical reconstructions: no prior, one image from the data alone."""
