"""What happens to a model before a robot runs it: building, quantising, adopting, comparing."""
