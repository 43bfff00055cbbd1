"""A web page to try the model on, served to this machine only: `make app`."""
