"""What a group of processes is: who takes part, and which share of the work each does."""


class ProcessGroup:
    """Processes that train one model together; this base class is a group of one.

    There are two kinds, nested: the processes of a host (`local_group`) share memory, and rank 0 of
    each speaks to the other hosts (`host_group`) over the network.

    Attributes:
        rank: this process's number in the group; 0 is the one that writes results.
        world_size: how many there are.
    """

    rank = 0
    world_size = 1

    def partition(self, items: range, rank: int | None = None) -> range:
        """Return which of some consecutive items are this rank's, or another rank's.

        Rank 0 always has the first one. Shares are equal where `world_size` divides their number.
        """
        rank = self.rank if rank is None else rank
        first, end = (-(-number * len(items) // self.world_size) for number in (rank, rank + 1))
        return items[first:end]
