"""The project's commands beside DVC's own."""
