"""What lies beside k-space in a file: arrays that say it is not Cartesian, and arrays that nothing reads."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from kdrift.data.volume import BadVolume

_NOT_CARTESIAN = re.compile(
    r"(^|[_.])(k?traj\w*|angles?|spokes?|interleaves?|coords?|coordinates|dcf|dcomp|density_?comp\w*|k[xyz]|omega)$",
    re.I,
)


def check_beside(path: str, names: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """Return a note on the arrays of a file that are not used: those that are not in `known`.

    Raises BadVolume where one of them is a trajectory, spoke angles or a density compensation: such k-space lies on no
    Cartesian grid, whatever its shape.
    """
    others = [name for name in names if name not in known]
    if found := [name for name in others if _NOT_CARTESIAN.search(name)]:
        raise BadVolume(
            path,
            f"{', '.join(found)} beside the k-space: it was sampled along a trajectory (radial, spiral), expected a"
            " Cartesian grid; grid it first, for example with sigpy.nufft_adjoint",
        )
    listed = ", ".join(others[:8]) + (", ..." if len(others) > 8 else "")
    return (f"what the file holds besides is not used: {listed}",) if others else ()
