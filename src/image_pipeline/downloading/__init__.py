"""What the data sets share to fetch files: mirrors, checksums, archives."""
