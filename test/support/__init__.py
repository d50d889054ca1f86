"""Stand-ins, scenes and process helpers that several tests share."""
