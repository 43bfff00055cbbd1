"""Changes of training images of one's own: a file each, named by `train.augmentation.custom`."""
