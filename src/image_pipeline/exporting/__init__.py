"""Export of a trained model: an ONNX file and its model card (models/README.md)."""
