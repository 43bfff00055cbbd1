"""A network by its name, the file that keeps a trained one, and what it says of images."""
