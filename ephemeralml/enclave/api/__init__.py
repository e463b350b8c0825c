"""The OpenAI-compatible API, on complete requests."""
