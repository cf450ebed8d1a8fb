"""Parts of the command line; :mod:`transanno.cli` is its entry."""
