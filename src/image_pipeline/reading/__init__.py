"""What the data sets share to read their files, image files included."""
