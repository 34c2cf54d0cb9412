"""From a dense model to the ONNX file that every engine is compiled from."""
