"""Classical reconstructions, one file each: no prior, one image from the data alone."""
