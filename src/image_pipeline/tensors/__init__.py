"""The tensorized splits' files: written by tensorize, read by the later stages."""
