"""Pure functions over bytes: encodings, signatures, trees. No I/O, no clock."""
