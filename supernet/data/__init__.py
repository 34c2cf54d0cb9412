"""Labelled rows, their splits and unlabelled sentences. Standard library; parquet and the hub import late."""
