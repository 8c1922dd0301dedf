"""``python -m elbokit``: versions, build and hardware, for a bug report."""

from elbokit import show_versions

if __name__ == "__main__":
    show_versions()
