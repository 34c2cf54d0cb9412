"""`atb bench`: bundles, ONNX files and the frameworks people use, side by side in one interleaved run."""
