"""Inference: image files in, classes and probabilities out."""
