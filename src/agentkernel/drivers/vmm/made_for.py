"""The note beside every saved state that says what machine it was made for: a state fits no other.

Raised as what the caller can do: a template that does not fit is made anew (Broken), a snapshot is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from agentkernel.drivers.contract import Kernel
from agentkernel.drivers.vmm.hardware import processor
from agentkernel.model.errors import Broken, NotFound, Refused
from agentkernel.model.spec import BootSpec

MADE_FOR = "made-for.json"

Inputs = Mapping[str, object]
"""All that a machine must have in common with the one that was saved; JSON can carry it."""


def inputs_of(spec: BootSpec, kernel: Kernel) -> dict[str, object]:
    """What is told apart for every monitor's machines; each adds itself and its hardware."""
    warm_up = {"warm_up": list(map(list, spec.warm_up))} if spec.warm_up else {}
    return {
        **warm_up,
        "kernel": kernel.digest,
        "image": spec.image,
        "disk_mib": spec.disk_mib,
        "processor": processor(),
    }


def _written(inputs: Inputs) -> str:
    return json.dumps(dict(inputs), sort_keys=True)


def write_key(folder: Path, inputs: Inputs) -> None:
    """Say beside the files what they fit."""
    (folder / MADE_FOR).write_text(_written(inputs))


def differences(folder: Path, inputs: Inputs) -> list[str]:
    """Names of what is not as it was when the files of a folder were made.

    Raises:
        FileNotFoundError: there are none.
    """
    made_for = json.loads((folder / MADE_FOR).read_text())
    here = json.loads(_written(inputs))
    return sorted(name for name in {*made_for, *here} if made_for.get(name) != here.get(name))


def require_match(folder: Path, inputs: Inputs) -> None:
    """Refuse a template that was made for something else: another monitor, set up since, might load it and be wrong.

    Raises:
        Broken: it does not fit.
        FileNotFoundError: it is gone.
    """
    if different := differences(folder, inputs):
        raise Broken(f"the template was made for another {', '.join(different)}")


def check_fits(folder: Path, inputs: Inputs) -> None:
    """Raise Refused where a snapshot was saved by another machine, and say what is different; NotFound where there is
    none.
    """
    try:
        different = differences(folder, inputs)
    except FileNotFoundError as err:
        raise NotFound("there is no such snapshot, or it was removed") from err
    if different:
        raise Refused(
            f"the snapshot does not fit any more: {', '.join(different)} changed since it was taken",
            hint="take a new one; a saved machine is never loaded into another one on hope",
        )
