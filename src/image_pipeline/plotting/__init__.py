"""Pictures: each module draws one kind, with the same bytes for the same values."""
