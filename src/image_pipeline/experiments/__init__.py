"""Comparing runs, repeating them over seeds, searching hyperparameters, verifying results."""
