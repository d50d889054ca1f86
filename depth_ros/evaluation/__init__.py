"""How good models are on a recording."""
