"""The model for others: one ONNX file, and the page about it."""
