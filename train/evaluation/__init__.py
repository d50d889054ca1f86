"""Judging networks against ground truth."""
