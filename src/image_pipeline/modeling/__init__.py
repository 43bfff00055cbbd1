"""Building networks, model files, inference, and out-of-distribution detection."""
