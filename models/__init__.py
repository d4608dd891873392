"""The VAE itself, its likelihoods and objectives, and trained bundles."""
