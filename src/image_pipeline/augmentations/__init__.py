"""Custom augmentations: one file each, chosen by `train.augmentation.custom`."""
