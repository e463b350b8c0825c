"""The runtime inside the TEE: boot, engines, the API behind the channel."""
