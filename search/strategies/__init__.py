"""The ways to choose what is evaluated next, all behind the one interface of `search.strategy`."""
