"""Strict checks of weight files on their raw headers, before any library reads them."""
