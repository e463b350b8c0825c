"""Model packages: their manifest, files, signature and verification (model-package.md)."""
