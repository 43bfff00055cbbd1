"""Fetching files: mirrors, checksums, archives."""
