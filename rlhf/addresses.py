"""Addresses of stores and remotes, as they may be shown and kept."""

from urllib.parse import urlsplit, urlunsplit


def without_password(url: str) -> str:
    """An address without the user and password that it may hold."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else url
