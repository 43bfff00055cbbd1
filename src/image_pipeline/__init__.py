"""Image classification from download to an evaluated model, reproducible to the bit."""
