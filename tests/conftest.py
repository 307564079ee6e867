"""What every test process needs."""

import signal


def pytest_configure() -> None:
    """Take SIGINT: a shell starts jobs in the background with it ignored, and tests that interrupt would never end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
