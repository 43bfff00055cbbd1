"""Training on several hosts, with the same bits as on one.

Each host computes a share of a batch's micro-batches, as the processes of one host do (see
`training.microbatching`). In a step, hosts send each other their partial sums of the gradients; all
add them up in the same tree and take the optimizer's step themselves. So neither the number of
hosts nor their joining and leaving changes a bit.

- `settings`: environment variables, the rendezvous address, the token.
- `fingerprint`: what must be equal on all hosts, and a description of what differs.
- `connection`, `rendezvous_server`: connections on which both ends have proved that they know the
  token, and the server that accepts them, in front of the store of PyTorch's rendezvous.
- `coordinator`: the first host's side of a run. The others' is in `commands.join` and
  `distributed.coordinator_client`.
- `agent_process`, `elastic_agent`: PyTorch's elastic agent, a process on each host. It finds the
  other hosts through the rendezvous, starts `worker`, and restarts it when a host leaves or joins.
- `worker`: the process that trains: the train stage itself.
- `distributed_group`: collective operations between the hosts' workers, on PyTorch's gloo backend.
"""
