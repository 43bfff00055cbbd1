"""The networks: a file each, `<name>.py`, with an ordinary `class Model(torch.nn.Module)` in it."""
