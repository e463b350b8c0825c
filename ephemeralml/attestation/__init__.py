"""What an evidence document says, and whether to believe it (attestation)."""
