"""Training data: sequences on disk, readers of foreign formats, the data set, augmentation."""
