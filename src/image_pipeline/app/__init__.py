"""A page to try the model in, on this machine alone: `make app`."""
