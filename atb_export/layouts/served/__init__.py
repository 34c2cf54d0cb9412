"""Python models that Triton runs; they are copied into a model repository, never imported by ATB."""
