"""Documents to a checked, merged and filled-in desired state. Pure: no clock, no I/O.

layer_keys, wanted_keys   what to read from the store
kept_keys                 what of it may be kept on disk
evaluate                  bytes -> Desired: everything that is wrong, or the merged document
resolve                   Desired, this node's variables, secrets -> NodeSpec
"""

from .documents import Document, Unreadable, parse
from .evaluate import Desired, addresses, check_alone, evaluate
from .formats import duration_s
from .layers import kept_keys, layer_keys, wanted_keys
from .merge import canonical
from .places import spelled, walk
from .resolve import resolve
from .schema import json_schema
from .secrecy import MASK, is_secret_key, is_secret_place, mask
from .variables import Variables

__all__ = [
    "MASK",
    "Desired",
    "Document",
    "Unreadable",
    "Variables",
    "addresses",
    "canonical",
    "check_alone",
    "duration_s",
    "evaluate",
    "is_secret_key",
    "is_secret_place",
    "json_schema",
    "kept_keys",
    "layer_keys",
    "mask",
    "parse",
    "resolve",
    "spelled",
    "walk",
    "wanted_keys",
]
