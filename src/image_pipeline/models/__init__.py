"""The networks: one file each, `<name>.py`, with an ordinary `class Model(torch.nn.Module)`."""
