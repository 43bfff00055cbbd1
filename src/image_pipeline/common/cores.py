"""What there is to compute on."""


def available_cores() -> int:
    """Return how many cores this process may use.

    What it is bound to counts, and what a container grants it: more processes than that would only
    hold each other up.
    """
    from joblib import cpu_count  # here: its import takes up to 70 ms, and not all ask

    cores: int = cpu_count()
    return cores
