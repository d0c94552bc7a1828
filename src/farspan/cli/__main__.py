"""`python -m farspan.cli`: the command line without the installed script."""

from farspan.cli import main

main()
