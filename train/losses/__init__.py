"""The papers' losses, one a function."""
