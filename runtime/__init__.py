"""The engine world: compile, run, measure and read bundles of tiny BERTs. Needs no torch."""
