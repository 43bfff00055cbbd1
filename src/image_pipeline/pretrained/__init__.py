"""Weights to start training from: fetching them, and reading them safely."""
