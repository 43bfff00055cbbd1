"""Using a model: images of any kind in, classes and probabilities out."""
