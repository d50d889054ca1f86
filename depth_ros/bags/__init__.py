"""Recordings: reading, writing, recovery, topics, ground truth."""
