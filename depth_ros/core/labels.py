"""What the numbers of a label image mean."""

UNLABELED = 255
"""Id of a pixel without a class: in networks' labels, in truth and in training data."""
