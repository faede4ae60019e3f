"""Kernels that move elements: copies between views, fills, and shifts inside one buffer.

Each is made for its shape. Elements that lie side by side on both sides move as words.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeseq.kernels.loops import Nest

__all__ = ["Unit", "move_source", "shift_source", "unit_of"]

#: Units written out per iteration on small cores, which then load and store several at once.
_UNROLL = 4


@dataclass(frozen=True)
class Unit:
    """What one load or store moves.

    Attributes:
        nbytes: 1, 2, 4 or 8.
        any_address: whether it may lie anywhere, not only at multiples of `nbytes`.
    """

    nbytes: int
    any_address: bool

    def load(self, at: str) -> str:
        """Source of a load from ``pointer, offset``."""
        return f"load{self._kind}({at})"

    def store(self, at: str, value: str) -> str:
        """Source of a store to ``pointer, offset``."""
        return f"store{self._kind}({at}, {value})"

    @property
    def _kind(self) -> str:
        return f"{8 * self.nbytes}{'_any' if self.any_address and self.nbytes > 2 else ''}"


def unit_of(multiple: int, aligned: int, wide: bool) -> Unit:
    """The widest unit for moves.

    Args:
        multiple: bytes that divide every length and step.
        aligned: bytes to which both addresses are aligned.
        wide: whether the core loads 8 bytes from any address.
    """
    if wide:
        return Unit(next(n for n in (8, 4, 2, 1) if multiple % n == 0), True)
    return Unit(next(n for n in (4, 2, 1) if multiple % n == 0 and aligned % n == 0), False)


def _unrolled(count: int, small: bool) -> int:
    """Units to write out per iteration of `count`."""
    if count <= _UNROLL:
        return count
    return _UNROLL if small and count % _UNROLL == 0 else 1


def move_source(
    extents: list[int],
    source: list[int] | None,
    target: list[int],
    load: Unit,
    store: Unit,
    *,
    value: int = 0,
    small: bool = False,
) -> str:
    """Source of ``kernel(src, dst)``, or of ``kernel(dst)`` that stores `value` everywhere.

    Args:
        extents: nested loops, outermost first.
        source, target: bytes between neighbours of each loop; source None: there is none.
        load, store: what is moved; a wider store extends the sign.
        value: stored without a source.
        small: whether the core gains from writing iterations out.
    """
    times = _unrolled(extents[-1], small)
    nest = Nest(
        [*extents[:-1], extents[-1] // times],
        {
            name: [*steps[:-1], steps[-1] * times]
            for name, steps in (("src", source), ("dst", target))
            if steps is not None
        },
    )
    body = []
    if source is not None:
        for k in range(times):
            at = ", ".join(nest.at("src", k * source[-1]))
            body.append(f"v{k} = {load.load(at)}")
    for k in range(times):
        at = ", ".join(nest.at("dst", k * target[-1]))
        body.append(store.store(at, f"v{k}" if source is not None else str(value)))
    names = "dst" if source is None else "src, dst"
    return "\n".join([f"def kernel({names}):", *nest.around(body)])


def shift_source(count: int, gap: int, unit: Unit, *, small: bool) -> str:
    """Source of ``kernel(p)``: move `count` units by `gap` bytes inside one buffer.

    Args:
        count: units.
        gap: from where they lie to where they go; negative: towards p, which is the target then;
            positive: away from p, which is the source then.
        unit: what is moved at a time.
        small: as in `move_source`.
    """
    times = _unrolled(count, small)
    step = unit.nbytes * times
    source, target = (0, gap) if gap > 0 else (-gap, 0)
    first = 0 if gap < 0 else step * (count // times - 1)
    lines = ["def kernel(p):", f"    at = np.int32({first})", "    n = np.int32(0)"]
    lines.append(f"    while n < {count // times}:")
    # All of an iteration is loaded before any of it is stored, and iterations run away from what
    # they overwrite.
    for k in range(times):
        lines.append(f"        v{k} = {unit.load(f'p, np.int32(at + {source + k * unit.nbytes})')}")
    for k in range(times):
        lines.append(
            f"        {unit.store(f'p, np.int32(at + {target + k * unit.nbytes})', f'v{k}')}"
        )
    lines.append(f"        at = np.int32(at {'+' if gap < 0 else '-'} {step})")
    lines.append("        n = np.int32(n + 1)")
    return "\n".join(lines)
