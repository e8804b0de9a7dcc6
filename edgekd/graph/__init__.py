"""ONNX files: write them, read them safely, compare what they compute."""
