"""The project's commands besides DVC's."""
