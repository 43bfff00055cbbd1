"""Image files that nobody has vetted: out of folders and archives, and decoded to pixels."""
