"""Classical reconstructions: no prior, an image from the data alone, or coil images that are combined."""
