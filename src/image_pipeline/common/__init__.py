"""Errors, atomic writes, params, paths, stage scripts: nothing that can change a result."""
