"""Training of score priors: a plain PyTorch loop, and Ray Train around it."""
