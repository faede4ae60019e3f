"""Where batch, time and features lie in a tensor of the exported program.

A Graph value has no batch axis and its time is part of its type; a tensor has both somewhere among
its axes. Each axis of a tensor is a product of **atoms**: 'B' (batch), 'T' (time) or 'F' (an axis
of one frame); an axis without atoms has size 1. Transposing, squeezing and viewing move atoms;
nothing is computed. The atoms 'F', in order, are the shape of the Graph value.

Only the example's sizes are known, so an axis is followed by its label and never recognised by its
size: a model whose length equals its number of features is not confusing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["ONE_FRAME", "Atom", "Axes", "LayoutError", "Value", "regroup"]


class LayoutError(ValueError):
    """An operation needs an axis where it is not; the lowering adds the place."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


@dataclass(frozen=True)
class Atom:
    """A factor of an axis: its label ('B', 'T' or 'F') and its size in the example."""

    label: str
    size: int


Axis = tuple[Atom, ...]
Axes = tuple[Axis, ...]


ONE_FRAME = (
    "only the last frame can be selected (y[:, -1]); for a loop over the frames use nn.RNN, nn.GRU "
    "or nn.LSTM"
)
"""What to do instead of reading the first frames of a sequence."""


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the input.

    Attributes:
        name: of the Graph value that holds one frame of it.
        axes: of the tensor.
        pieces: if not None, the tensor is these values stacked along axis 0 and has no name yet
            (None among them: a value that cannot be had, see `reason`).
        reason: why a missing piece cannot be had.
        order: the feature atoms in the order in which the Graph value stores them, by their number
            in `axes`; None for their natural order. A convolution makes channels last whatever the
            tensor's axes say; moving them is put off until somebody asks.
        head: if not 0, the tensor is the first frames of a sequence alone, as many; they can be put
            before others.
        pad: frames before and after the sequence that are not there yet: a convolution takes them
            in.
        mirror: what they are: zeros (""), mirrored ("reflect") or the first and last ("edge").
        keys: if not 0, the last axis counts the frames that a query attends to, the newest last.
        future: of scores, what every score of a frame that has not come yet is; None where they
            differ.
    """

    name: str
    axes: Axes
    pieces: tuple[str | None, ...] | None = None
    reason: str = ""
    fix: str = field(default="", compare=False)
    order: tuple[int, ...] | None = None
    head: int = 0
    pad: tuple[int, int] = (0, 0)
    mirror: str = ""
    keys: int = 0
    future: float | None = None

    @property
    def frame(self) -> tuple[int, ...]:
        """Sizes of the feature atoms: the shape of the Graph value in natural order."""
        return tuple(a.size for axis in self.axes for a in axis if a.label == "F")

    @property
    def stored(self) -> tuple[int, ...]:
        """Shape of the Graph value as it is stored."""
        frame = self.frame
        return frame if self.order is None else tuple(frame[i] for i in self.order)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the tensor in the example."""
        return tuple(size_of(axis) for axis in self.axes)

    def axis(self, dim: int) -> int:
        """`dim` counted from the front.

        Raises:
            LayoutError: there is no such axis.
        """
        if not -len(self.axes) <= dim < len(self.axes):
            raise LayoutError(f"axis {dim} of a tensor with {len(self.axes)} axes")
        return dim % len(self.axes)

    def kind(self, dim: int) -> str:
        """'B', 'T', 'F' (features alone), '1' (size 1) or 'mixed'."""
        return kind_of(self.axes[self.axis(dim)])

    @property
    def layout(self) -> str:
        """One letter per axis, for people and for `Graph.meta`."""
        return "".join(k if len(k) == 1 else "?" for k in map(kind_of, self.axes))


def size_of(axis: Axis) -> int:
    return math.prod(a.size for a in axis)


def kind_of(axis: Axis) -> str:
    """See `Value.kind`."""
    labels = {a.label for a in axis}
    if not labels:
        return "1"
    if len(labels) > 1:
        return "mixed"
    label = labels.pop()
    return label if label == "F" or len(axis) == 1 else "mixed"


def is_unit(axis: Axis) -> bool:
    """True where the axis has size 1 (a batch of one included)."""
    return size_of(axis) == 1


def features(*sizes: int) -> Axes:
    """Axes of one frame."""
    return tuple((Atom("F", n),) for n in sizes)


def describe(axes: Axes) -> str:
    """For messages: '[batch 2, time 16, 8]'."""
    words = {"B": "batch ", "T": "time ", "F": ""}
    parts = ["·".join(f"{words[a.label]}{a.size}" for a in axis) or "1" for axis in axes]
    return f"[{', '.join(parts)}]"


def regroup(axes: Axes, sizes: Sequence[int]) -> Axes:
    """Axes of the same elements, in the same order, seen with other sizes.

    Feature axes merge and split freely. Batch and time may be merged with their neighbours (and be
    split off again later), never split.

    Args:
        axes: of the tensor.
        sizes: the new ones; their product is that of the old ones.

    Raises:
        LayoutError: the view would split time or batch, or cut across them.
    """
    atoms = _merged([a for axis in axes for a in axis if a.size != 1])
    singles = _singles(axes)
    if math.prod(sizes) != math.prod(a.size for a in atoms):
        raise LayoutError(f"a view of {describe(axes)} as {list(sizes)}: the sizes do not match")
    out: list[Axis] = []
    prefix = 1
    for size in sizes:
        axis: list[Atom] = []
        if size == 1:
            if singles.get(prefix):
                axis.append(singles[prefix].pop(0))
        else:
            need = size
            while need > 1:
                atom = atoms.pop(0)
                if need % atom.size == 0:
                    axis.append(atom)
                    need //= atom.size
                elif atom.label == "F" and atom.size % need == 0:
                    axis.append(Atom("F", need))
                    atoms.insert(0, Atom("F", atom.size // need))
                    need = 1
                else:
                    word = {"B": "the batch", "T": "time"}.get(atom.label, "the features")
                    raise LayoutError(
                        f"a view of {describe(axes)} as {list(sizes)} cuts across {word}",
                        "transpose before the view, and keep batch and time as axes of their own",
                    )
        out.append(tuple(axis))
        prefix *= size
    return tuple(out)


def _merged(atoms: list[Atom]) -> list[Atom]:
    """Neighbouring feature atoms as one."""
    out: list[Atom] = []
    for atom in atoms:
        if out and atom.label == "F" and out[-1].label == "F":
            out[-1] = Atom("F", out[-1].size * atom.size)
        else:
            out.append(atom)
    return out


def _singles(axes: Axes) -> dict[int, list[Atom]]:
    """Labelled atoms of size 1 (a batch of one), by the number of elements before them."""
    found: dict[int, list[Atom]] = {}
    prefix = 1
    for axis in axes:
        for atom in axis:
            if atom.size == 1 and atom.label in "BT":
                found.setdefault(prefix, []).append(atom)
            prefix *= atom.size
    return found
