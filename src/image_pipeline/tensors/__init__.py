"""The tensorized splits: written by tensorize, read by the stages after it."""
