"""The training, validation and test split, and a report on their content."""
