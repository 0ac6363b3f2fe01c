"""Public names for what the interpreter has built in and its standard library does not reach. After python.py."""

import _bisect
import _blake2
import _datetime
import _heapq
import _md5
import _sha1
import _sha3
import _struct

import _sha2


def _module(name, parts):
    made = types.ModuleType(name)
    for part in parts:
        items = vars(part) if isinstance(part, types.ModuleType) else part
        made.__dict__.update({key: value for key, value in items.items() if not key.startswith("_")})
    sys.modules[name] = made
    return made


_HASHES = {
    "md5": _md5.md5,
    "sha1": _sha1.sha1,
    **{name: getattr(_sha2, name) for name in ("sha224", "sha256", "sha384", "sha512")},
    **{name: getattr(_sha3, name) for name in ("sha3_224", "sha3_256", "sha3_384", "sha3_512")},
    "blake2b": _blake2.blake2b,
    "blake2s": _blake2.blake2s,
}


def _new_hash(name, data=b"", **options):
    if name.lower() not in _HASHES:
        raise ValueError(f"unsupported hash type {name}")
    return _HASHES[name.lower()](data, **options)


_module("datetime", [_datetime, {"UTC": _datetime.timezone.utc, "MINYEAR": 1, "MAXYEAR": 9999}])
_module("heapq", [_heapq])
_module("struct", [_struct])
_module("bisect", [_bisect, {"bisect": _bisect.bisect_right, "insort": _bisect.insort_right}])
_module(
    "hashlib",
    [_HASHES, {"new": _new_hash, "algorithms_available": set(_HASHES), "algorithms_guaranteed": set(_HASHES)}],
)
