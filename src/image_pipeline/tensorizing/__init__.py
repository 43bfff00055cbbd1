"""From original files to splits, and a report on what is in them."""
