"""`kms serve`: a key server with AWS KMS's protocol that enforces attestation (key-release.md section 8)."""
