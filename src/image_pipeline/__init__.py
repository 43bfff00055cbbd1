"""From public images to a judged classifier, reproducible to the bit."""
