"""MR physics: Fourier transform, operators, coil maps, masks, noise."""
