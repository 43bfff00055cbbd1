"""Plots, byte-identical for equal inputs."""
