"""ONNX operators, one file per kind; each registers its functions when imported."""
