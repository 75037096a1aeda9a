"""One page a file, and what pages are made of."""
