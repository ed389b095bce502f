"""Rows by their digests, so that millions of them are told apart in little memory."""

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from rlhf.data.schema import ORIGIN_FIELDS

_encode = json.JSONEncoder(sort_keys=True).encode


def identity(row: Mapping[str, Any]) -> bytes:
    """The digest of a row's content without its origin (`ORIGIN_FIELDS`): rows with the same digest are the same row.

    Sixteen bytes: two of a billion rows share theirs once in 10^20 data sets.
    """
    content = _encode({name: value for name, value in row.items() if name not in ORIGIN_FIELDS})
    return blake2b(content.encode(), digest_size=16).digest()
