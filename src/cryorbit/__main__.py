"""``python -m cryorbit``: the command line."""

from cryorbit.cli import main

main()
