"""Training on several machines, to the bits of one.

Machines hold aligned blocks of a batch's lanes (see `training.lanes`), as the processes of one do.
What crosses the network in a step is the sum of each block, which every machine adds up in the same
tree; each takes the optimizer's step itself. So it changes no bit how many there are, nor that some
come and others go.

- `settings`: what the environment asks for.
- `facts`: what must be equal on two machines, and the words for what is not.
- `line`, `gate`: who may take part: a connection that both ends have proved to know the token on.
- `lead`: the first machine, which opens the gate and keeps the store of PyTorch's rendezvous.
  Any other one's side is in `commands.join` and `commands.first_machine`.
- `agent`, `elastic`: PyTorch's elastic agent, a process of each machine. It finds the others by the
  rendezvous, starts `part`, and starts it anew when a machine is lost or wants to join.
- `part`: the process that trains on a machine: the train stage itself.
- `exchange`: what the machines that train tell each other, by PyTorch's gloo.
"""
