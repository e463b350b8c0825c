"""Storage of packages: one interface, an adapter for each place."""
