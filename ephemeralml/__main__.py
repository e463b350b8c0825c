"""`python -m ephemeralml` is the `ephemeralml` command."""

from ephemeralml.cli.main import main

if __name__ == "__main__":
    main()
