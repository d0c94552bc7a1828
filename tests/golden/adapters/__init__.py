"""One module a system: `ADAPTERS` maps a golden case's function name to a check of that case."""
