"""Servers as a client meets them: requests of real texts, load on them, and where they bend."""
