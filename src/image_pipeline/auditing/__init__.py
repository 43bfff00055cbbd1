"""The stage `audit`: near-duplicates, and images that look wrong."""
