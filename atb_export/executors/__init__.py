"""Where the jobs of a search are done: in this process, or on a Ray cluster."""
