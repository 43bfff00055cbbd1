"""Random changes of training images, by the block `train.augmentation` of params.yaml."""
