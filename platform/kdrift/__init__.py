"""kdrift: score (diffusion) priors for MR images and posterior reconstruction of undersampled k-space."""

__version__ = "0.1.0"
