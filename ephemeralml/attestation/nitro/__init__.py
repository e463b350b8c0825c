"""AWS Nitro documents: read, verify, compare with a policy."""
