"""The number of cores."""


def available_cores() -> int:
    """Return how many cores this process may use.

    Its CPU affinity and a container's quota count: more processes than that would only slow each
    other down.
    """
    from joblib import cpu_count  # here: its import takes up to 70 ms, and not all ask

    cores: int = cpu_count()
    return cores
