"""How a module is called: as it is, with its hidden states made inputs and outputs, or by its step.

A `Subject` is what is exported and what the Graph is compared with: a module whose inputs are
tensors and whose outputs are tensors, states last.
"""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt
import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from edgeseq.errors import ModelError, UnsupportedError
from edgeseq.frontend.options import ImportOptions
from edgeseq.frontend.torch_attributes import Attributes, Leaf
from edgeseq.frontend.torch_packed import PaddedError, plain_sequences

__all__ = ["RAISED", "HeldState", "Subject", "first_line", "subject_of"]

Array = npt.NDArray[Any]

# Whatever a user's forward or torch's exporter may raise; one message is made of all of them.
RAISED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)


def first_line(e: BaseException) -> str:
    """The first line of what an exception says, for a message of one line."""
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    return (lines[0] if lines else type(e).__name__)[:300]


@dataclass(frozen=True)
class HeldState:
    """A state of the module itself: its last inputs and outputs in the subject.

    Attributes:
        label: for people.
        init: what it is before the first call.
        how: how it was recognised.
    """

    label: str
    init: Array
    how: str


@dataclass
class Subject:
    """What is exported.

    Attributes:
        module: is called with `inputs`; its outputs end with `states`.
        inputs: of the example, states last.
        original: the user's module.
        given: the user's example.
        states: that the subject holds.
        pairs: (input, output) that carry a state by the kind of the module.
        prefix: path of the user's module in `module`.
        is_step: the subject takes one frame.
        sequence: of a step, an input of the module's own forward, or None.
        where: for messages.
        notes: for the user.
    """

    module: torch.nn.Module
    inputs: tuple[Any, ...]
    original: torch.nn.Module
    given: tuple[Any, ...]
    where: str
    states: list[HeldState] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    prefix: str = ""
    is_step: bool = False
    sequence: torch.Tensor | None = None
    packed: bool = False
    notes: list[str] = field(default_factory=list)

    def example_of(self, index: int) -> Array | None:
        """Tensor number `index` of the example, as an array."""
        leaves = [x for x in tree_leaves(self.inputs) if isinstance(x, torch.Tensor)]
        return _array(leaves[index]) if index < len(leaves) else None

    def names(self) -> list[str]:
        """Names for the inputs: those of the module's own arguments, and of its states."""
        method = self.original.step if self.is_step else self.original.forward
        try:
            known = [p.name for p in inspect.signature(method).parameters.values()  # type: ignore[arg-type]
                     if p.kind is p.POSITIONAL_OR_KEYWORD]  # fmt: skip
        except (TypeError, ValueError):
            known = []
        found: list[str] = []
        for i, x in enumerate(self.inputs[: len(self.inputs) - len(self.states)]):
            name = known[i] if i < len(known) else f"input_{i}"
            leaves = [t for t in tree_leaves(x) if isinstance(t, torch.Tensor)]
            found += [name] if len(leaves) == 1 else [f"{name}_{k}" for k in range(len(leaves))]
        found += [s.label for s in self.states]
        plain = [re.sub(r"\W+", "_", n, flags=re.ASCII).strip("_") or "x" for n in found]
        return [n if plain.count(n) == 1 else f"{n}_{i}" for i, n in enumerate(plain)]

    @contextmanager
    def exporting(self) -> Iterator[None]:
        """What must hold while the subject is exported.

        The exporter prints whole programs where it fails; what it raises says enough.
        """
        with plain_sequences(check=False), redirect_stderr(io.StringIO()):
            yield

    def call(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        """The outputs for the tensors of `inputs`, in their order."""
        leaves, spec = tree_flatten(self.inputs)
        given = iter(tensors)
        leaves = [next(given) if isinstance(x, torch.Tensor) else x for x in leaves]
        return _outputs(self.module(*tree_unflatten(leaves, spec)))


def _array(x: torch.Tensor) -> Array:
    x = x.detach().cpu()
    return (x.double() if x.is_floating_point() else x).numpy()


def _outputs(result: Any) -> list[Any]:
    """The tensors of a result, in the order in which the exporter lists them."""
    return [y for y in tree_leaves(result) if y is not None]


def subject_of(
    module: torch.nn.Module, example: Any, options: ImportOptions, where: str
) -> Subject:
    """See how the module is to be called.

    Raises:
        ModelError: it fails on the example, or the example holds no tensors.
        UnsupportedError: it is random, or its state cannot be carried.
    """
    given = tuple(example) if isinstance(example, tuple | list) else (example,)
    tensors = [x for x in tree_leaves(given) if x is not None]
    if not tensors or not all(isinstance(x, torch.Tensor) for x in tensors):
        raise ModelError(
            "needs an nn.Module and an example of tensors",
            where=where,
            fix="edgeseq.from_torch(module, torch.zeros(1, 16, features))",
        )
    given = tuple(_detached(x) for x in given)
    if callable(getattr(module, "step", None)) and callable(getattr(module, "initial_state", None)):
        return _by_step(module, given, options, where)
    if options.window is not None:
        given = _windowed(given, options)
    subject = Subject(module, given, module, given, where)
    if isinstance(module, torch.nn.RNNCellBase) and len(tensors) > 1:
        subject.pairs = [(1 + i, i) for i in range(len(tensors) - 1)]
    return _with_hidden(subject)


def _detached(x: Any) -> Any:
    leaves, spec = tree_flatten(x)
    return tree_unflatten([t.detach() if isinstance(t, torch.Tensor) else t for t in leaves], spec)


def _windowed(given: tuple[Any, ...], options: ImportOptions) -> tuple[Any, ...]:
    """The example with as many frames as a window has.

    Time is the axis that is stated, else one that is as long as the window, else the usual one.
    """
    assert options.window is not None
    out = []
    main = next(x for x in given if isinstance(x, torch.Tensor))
    axis = options.time_axis_of("") if not isinstance(options.time_axis, dict) else None
    if axis is None:
        usual = 1 if main.dim() > 2 or not main.is_floating_point() else 0
        rest = [i for i in range(main.dim()) if main.dim() < 3 or i]
        order = sorted(rest, key=lambda i: i != usual)
        long = [i for i in order if main.shape[i] == options.window]
        axis = next((i for i in long or order if main.shape[i] > 1), usual)
    axis = min(axis, main.dim() - 1)
    frames = main.shape[axis]
    for x in given:
        if isinstance(x, torch.Tensor) and x.dim() > axis and x.shape[axis] == frames:
            index = torch.arange(options.window) % frames
            x = x.index_select(axis, index.to(x.device))
        out.append(x)
    return tuple(out)


# -- hidden states -------------------------------------------------------------------------------


class _Carrying(torch.nn.Module):
    """A module whose attributes `leaves` are its last inputs and outputs."""

    def __init__(self, module: torch.nn.Module, leaves: Sequence[Leaf]) -> None:
        super().__init__()
        self.module = module
        self.leaves, self.attributes = list(leaves), Attributes(module)

    def forward(self, *args: Any) -> Any:
        count = len(self.leaves)
        inputs, states = args[: len(args) - count], args[len(args) - count :]
        kept = self.attributes.snapshot(contents=False)
        try:
            for leaf, state in zip(self.leaves, states, strict=True):
                # A copy: a state that is written in place must not be written in the caller's.
                self.attributes.write(leaf, state.clone())
            result = self.module(*inputs)
            after = [self.attributes.read(leaf).clone() for leaf in self.leaves]
        finally:
            kept.restore()
        return (result, *after)


def _with_hidden(subject: Subject) -> Subject:
    """The subject, or one whose hidden states are inputs and outputs.

    The module is called twice on the example and once on other data: an attribute that then
    differs carries something; one that is made once (a mask that is kept) does not.

    Raises:
        ModelError: the module fails on the example.
        UnsupportedError: two calls differ and nothing shows why; or a state cannot be carried.
    """
    module, where = subject.module, subject.where
    attributes = Attributes(module)
    kept = attributes.snapshot()
    before = {k: _copied(v) for k, v in attributes.leaves().items()}
    seen: list[dict[Leaf, Any]] = []
    results: list[list[Any]] = []
    try:
        with plain_sequences(check=True) as packed:
            for inputs in (subject.inputs, subject.inputs, _other(subject.inputs)):
                results.append(_copied(_outputs(module(*inputs))))
                seen.append({k: _copied(v) for k, v in attributes.leaves().items()})
    except PaddedError as e:
        raise UnsupportedError(
            str(e),
            where=where,
            fix="a stream has no padding: pass lengths that are all full, or run the layer on the "
            "plain tensor",
        ) from e
    except RAISED as e:
        shapes = [list(x.shape) for x in tree_leaves(subject.inputs) if hasattr(x, "shape")]
        raise ModelError(
            f"fails on the example {shapes}: {first_line(e)}",
            where=where,
            fix="pass an example that the module accepts, [batch, time, features]",
        ) from e
    finally:
        kept.restore()
    subject.packed = packed.used
    if packed.used:
        subject.notes.append("packs sequences: sequences of full length are run as plain ones")
    held, after, other = seen
    made = [k for k, v in held.items() if k not in before or not _equal(before[k], v)]
    changed = [
        k
        for k, v in held.items()
        if not _equal(v, after.get(k, v)) or not _equal(v, other.get(k, v))
    ]
    grown = [k for k in other if k not in held]
    if not changed and not grown:
        if not _agree(results[0], results[1]):
            raise UnsupportedError(
                "two calls on the same input give different outputs: the module is random, or "
                "keeps state where it cannot be found",
                where=where,
                fix="keep state in tensors of the module (register_buffer), and use no random "
                "numbers in forward",
            )
        if made:  # attributes that are set once must not be seen by the exporter
            subject = replace(subject, module=_Carrying(module, ()), prefix="module")
        return subject
    _refuse_growth([*changed, *grown], held, after, other, where)
    leaves = [k for k in changed if isinstance(held[k], torch.Tensor)]
    starts = [_start(before.get(k), held[k]) for k in leaves]
    states = [
        HeldState(k.label, _array(s), "kept in an attribute")
        for k, s in zip(leaves, starts, strict=True)
    ]
    found = replace(
        subject, module=_Carrying(module, leaves), inputs=(*subject.inputs, *starts),
        states=states, prefix="module",
    )  # fmt: skip
    _check_start(found, leaves, before, results[0])
    _check_numbers(found, leaves, [k for k in changed if k not in leaves], held, results[1])
    return found


def _other(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Other data of the same shape."""
    leaves, spec = tree_flatten(inputs)
    generator = torch.Generator().manual_seed(1)
    out = []
    for x in leaves:
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            noise = torch.randn(x.shape, generator=generator).to(x.device)
            x = (x + noise).to(x.dtype)
        elif isinstance(x, torch.Tensor) and x.dim() > 1:
            x = x.flip(x.dim() - 1)
        out.append(x)
    return tree_unflatten(out, spec)


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return [_copied(v) for v in value] if isinstance(value, list) else value


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a is b or (
            a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a.detach(), b.detach()))
        )
    return type(a) is type(b) and bool(a == b)


def _agree(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether two results are the same; a GPU may add in another order."""
    for a, b in zip(first, second, strict=False):
        if not isinstance(a, torch.Tensor) or not a.is_floating_point():
            continue
        slack = 0.0 if a.device.type == "cpu" else 1e-5
        if a.shape != b.shape or not torch.allclose(a, b, rtol=slack, atol=slack, equal_nan=True):
            return False
    return len(first) == len(second)


def _refuse_growth(
    changed: Sequence[Leaf],
    held: dict[Leaf, Any],
    after: dict[Leaf, Any],
    other: dict[Leaf, Any],
    where: str,
) -> None:
    for k in changed:
        shapes = []
        for values in (held, after, other):
            v = values.get(k)
            shapes.append(list(v.shape) if isinstance(v, torch.Tensor) else type(v).__name__)
        if shapes[0] != shapes[1] or shapes[0] != shapes[2]:
            raise UnsupportedError(
                f"keeps {k.label!r}, which is {shapes[0]} after one call, then {shapes[1]}, then "
                f"{shapes[2]}",
                where=where,
                fix="keep a state of one shape: the last N frames, not all of them",
            )


def _start(before: Any, held: torch.Tensor) -> torch.Tensor:
    """What a state is before the first call; zero where it does not exist yet."""
    if isinstance(before, torch.Tensor) and before.shape == held.shape:
        return before.detach().to(held.dtype)
    return torch.zeros_like(held)


def _check_start(
    subject: Subject,
    leaves: Sequence[Leaf],
    before: dict[Leaf, Any],
    first: Sequence[torch.Tensor],
) -> None:
    """The first call from the initial states gives what the module's own first call gave."""
    with plain_sequences(check=True):
        try:
            have = _outputs(subject.module(*subject.inputs))[: len(first)]
        except RAISED as e:
            raise UnsupportedError(
                f"cannot be called with its states as tensors: {first_line(e)}",
                where=subject.where,
                fix="keep every state in a tensor of one shape (register_buffer)",
            ) from e
    made = [k.label for k in leaves if not isinstance(before.get(k), torch.Tensor)]
    if not _close(first, have):
        raise UnsupportedError(
            f"makes its state at the first call ({', '.join(map(repr, made)) or 'attributes'}), "
            "and not of zeros",
            where=subject.where,
            fix="make states in __init__: register_buffer(name, tensor)",
        )


def _close(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return all(
        a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5)
        for a, b in zip(first, second, strict=False)
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    )


def _check_numbers(
    subject: Subject,
    leaves: Sequence[Leaf],
    numbers: Sequence[Leaf],
    held: dict[Leaf, Any],
    second: Sequence[torch.Tensor],
) -> None:
    """Plain numbers that change from call to call must not matter: an export freezes them."""
    if not numbers:
        return
    tensors = subject.inputs[: len(subject.inputs) - len(subject.states)]
    with plain_sequences(check=True):
        have = _outputs(subject.module(*tensors, *(held[k] for k in leaves)))[: len(second)]
    names = ", ".join(repr(k.label) for k in numbers)
    if not _close(second, have):
        raise UnsupportedError(
            f"counts its calls in {names}, which an export would freeze",
            where=subject.where,
            fix="keep it in a tensor (register_buffer), or do without",
        )
    subject.notes.append(f"changes {names} at each call, which does not change its outputs")


# -- a module with a step of its own -------------------------------------------------------------


class _Step(torch.nn.Module):
    """The step of a module, its state as the last inputs and outputs."""

    def __init__(self, module: torch.nn.Module, spec: Any, count: int) -> None:
        super().__init__()
        self.module, self.spec, self.count = module, spec, count

    def forward(self, *args: Any) -> Any:
        inputs, states = args[: len(args) - self.count], args[len(args) - self.count :]
        step: Any = self.module.step
        result, state = step(*inputs, tree_unflatten(list(states), self.spec))
        leaves, spec = tree_flatten(state)
        if spec != self.spec:
            raise ValueError("step returns a state of another structure than initial_state")
        return (result, *leaves)


def _by_step(
    module: torch.nn.Module, given: tuple[Any, ...], options: ImportOptions, where: str
) -> Subject:
    """The step of a module that has one.

    The example is of the step, [batch, features], or of the forward, [batch, time, features].
    """
    try:
        state = module.initial_state(1)  # type: ignore[operator]
    except RAISED as e:
        raise ModelError(
            f"initial_state(1) fails: {first_line(e)}",
            where=where,
            fix="initial_state(batch) returns tensors for a batch of that size",
        ) from e
    leaves, spec = tree_flatten(state)
    if not leaves or not all(isinstance(x, torch.Tensor) for x in leaves):
        raise ModelError(
            "initial_state(1) does not return tensors", where=where, fix="return tensors"
        )
    main = given[0]
    sequence = None
    if isinstance(main, torch.Tensor) and main.dim() > 2:
        axis = options.time_axis_of("") if not isinstance(options.time_axis, dict) else None
        axis = 1 if axis is None else axis
        batch = 0 if axis else 1
        sequence = main.narrow(batch, 0, 1)
        main = sequence.select(axis, 0)
    elif isinstance(main, torch.Tensor) and main.dim() == 2:
        main = main[:1]
    frames = (main, *given[1:])
    step = _Step(module, spec, len(leaves))
    names = _leaf_names(state)
    states = [
        HeldState(n, _array(x), "of initial_state") for n, x in zip(names, leaves, strict=True)
    ]
    inputs = (*frames, *(x.detach() for x in leaves))
    try:
        step(*inputs)
    except RAISED as e:
        raise ModelError(
            f"step fails on a frame of {list(main.shape)}: {first_line(e)}",
            where=where,
            fix="step(x_t, state) takes x_t [batch, features] and returns (y_t, state)",
        ) from e
    return Subject(
        step, inputs, module, given, where, states, prefix="module", is_step=True, sequence=sequence
    )


def _leaf_names(state: Any) -> list[str]:
    """Names for the tensors of a state."""
    if isinstance(state, torch.Tensor):
        return ["state"]
    if isinstance(state, dict):
        return [str(k) for k, v in state.items() for _ in tree_leaves(v)]
    fields = getattr(state, "_fields", None)
    if fields is not None:
        return [f for f, v in zip(fields, state, strict=True) for _ in tree_leaves(v)]
    return [f"state_{i}" for i in range(len(tree_leaves(state)))]
