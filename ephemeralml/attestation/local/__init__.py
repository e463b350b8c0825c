"""The software TEE: an authority, a module and measurements without any hardware."""
