"""A sweep's trials seen from four sides, with one selection."""
