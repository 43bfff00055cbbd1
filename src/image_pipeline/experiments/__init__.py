"""Experiments held against one another, and against what their code makes."""
