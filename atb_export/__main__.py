"""`python -m atb_export` is `atb`."""

from atb_export.cli import main

main()
