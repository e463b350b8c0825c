"""From a signed package to an attested endpoint, and whether this machine is ready for it."""
