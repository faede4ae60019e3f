"""What a module keeps in its attributes: snapshots of it, and what of it is a state.

A forward that overwrites ``self.hidden`` carries a state that `torch.export` loses without a word.
Attributes are seen as a tree: of modules, their plain attributes and buffers, and lists, tuples,
dicts and objects in them; its leaves are tensors, None and plain values.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Attributes", "Leaf", "Snapshot"]

_DEPTH = 6
_ITEMS = 10_000
_ABSENT = object()

# What nn.Module keeps for itself.
_OWN = frozenset(
    {
        "_parameters", "_modules", "training", "_non_persistent_buffers_set",
        "_backward_pre_hooks", "_backward_hooks", "_is_full_backward_hook", "_forward_hooks",
        "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
        "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_flat_weights",
        "_flat_weight_refs", "_flat_weights_names", "_all_weights", "_compiled_call_impl",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Leaf:
    """A place in a module's attributes.

    Attributes:
        label: the way to it, for people: 'encoder.hidden[0]'.
        path: the keys of the way: (module path, attribute, key, ...).
    """

    label: str
    path: tuple[Any, ...]


class Attributes:
    """The attributes of a module and its sub-modules."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.modules = dict(module.named_modules())

    def leaves(self) -> dict[Leaf, Any]:
        """Tensors, None and plain values by place."""
        found: dict[Leaf, Any] = {}
        for prefix, m in self.modules.items():
            for key, value in vars(m).items():
                if key in _OWN:
                    continue
                if key == "_buffers":
                    for name, buffer in value.items():
                        found[self._leaf(prefix, (name,))] = buffer
                    continue
                for way, leaf in _walk(value, 0):
                    found[self._leaf(prefix, (key, *way))] = leaf
        return found

    @staticmethod
    def _leaf(prefix: str, way: tuple[Any, ...]) -> Leaf:
        label = f"{prefix}.{way[0]}" if prefix else str(way[0])
        for key in way[1:]:
            label += f".{key[1]}" if isinstance(key, tuple) else f"[{key!r}]"
        return Leaf(label, (prefix, *way))

    def write(self, leaf: Leaf, value: Any) -> None:
        """Put `value` into a place; tuples on the way are made anew."""
        prefix, name, *rest = leaf.path
        m = self.modules[prefix]
        if name in m._buffers:
            m._buffers[name] = value
            return
        if name == "_buffers":
            return
        held: Any = vars(m)
        held[name] = _put(held.get(name), rest, value)

    def read(self, leaf: Leaf) -> Any:
        """What is in a place; None where it does not exist."""
        prefix, name, *rest = leaf.path
        m = self.modules[prefix]
        value: Any = m._buffers[name] if name in m._buffers else vars(m).get(name)
        for key in rest:
            try:
                value = getattr(value, key[1]) if isinstance(key, tuple) else value[key]
            except (IndexError, KeyError, TypeError, AttributeError):
                return None
        return value

    def snapshot(self, *, contents: bool = True) -> Snapshot:
        """Everything as it is now, to be restored; `contents`: what tensors hold, too."""
        return Snapshot(self, contents)


def _walk(value: Any, depth: int) -> Iterator[tuple[tuple[Any, ...], Any]]:
    import torch

    if isinstance(value, torch.nn.Module | torch.nn.Parameter | type):
        return
    if value is None or isinstance(value, torch.Tensor | bool | int | float):
        yield (), value
        return
    if depth >= _DEPTH:
        return
    for key, child in _children(value):
        for way, leaf in _walk(child, depth + 1):
            yield (key, *way), leaf


def _children(value: Any) -> list[tuple[Any, Any]]:
    """Items of a container, or attributes of a plain object (their keys are ('.', name))."""
    if isinstance(value, dict):
        items: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list | tuple | deque):
        items = list(enumerate(value))
    elif _is_record(value):
        items = [((".", k), v) for k, v in vars(value).items()]
    else:
        items = []
    return items[:_ITEMS]


def _is_record(value: Any) -> bool:
    """An object of the user's own: not of torch, no function and no module."""
    return (
        hasattr(value, "__dict__")
        and not callable(value)
        and not type(value).__module__.startswith(("torch", "numpy", "builtins"))
        and type(value).__name__ not in ("module", "function", "method")
    )


def _put(holder: Any, rest: list[Any], value: Any) -> Any:
    """`holder` with `value` at the end of the way `rest`."""
    if not rest:
        return value
    key, *more = rest
    if isinstance(key, tuple):
        setattr(holder, key[1], _put(getattr(holder, key[1]), more, value))
        return holder
    if isinstance(holder, tuple):
        items = [*holder]
        items[key] = _put(items[key], more, value)
        return type(holder)(*items) if hasattr(holder, "_fields") else tuple(items)
    holder[key] = _put(holder[key], more, value)
    return holder


class Snapshot:
    """Attributes as they were: which objects they are, and what the objects hold."""

    def __init__(self, attributes: Attributes, contents: bool) -> None:
        import torch

        self._undo: list[Callable[[], None]] = []
        seen: set[int] = set()

        def keep(value: Any, depth: int) -> None:
            if id(value) in seen or depth > _DEPTH or isinstance(value, torch.nn.Module):
                return
            seen.add(id(value))
            if isinstance(value, torch.Tensor):
                if contents and not isinstance(value, torch.nn.Parameter):
                    self._tensor(value)
                return
            if isinstance(value, list):
                items = list(value)
                self._undo.append(lambda: value.__setitem__(slice(None), items))
            elif isinstance(value, deque):
                held = list(value)
                self._undo.append(lambda: _refill(value, held))
            elif isinstance(value, dict):
                pairs = dict(value)
                self._undo.append(lambda: _refill(value, pairs))
            elif _is_record(value):
                fields = dict(vars(value))
                self._undo.append(lambda: (vars(value).clear(), vars(value).update(fields))[1])
            for _, child in _children(value):
                keep(child, depth + 1)

        for m in attributes.modules.values():
            for key, value in vars(m).items():
                if key in ("_parameters", "_modules"):
                    continue
                keep(value, 0)
            self._undo.append(self._attributes(m))

    def _tensor(self, tensor: torch.Tensor) -> None:
        copy, version = tensor.detach().clone(), tensor._version

        def undo() -> None:
            if tensor._version != version:
                tensor.detach().copy_(copy)

        self._undo.append(undo)

    @staticmethod
    def _attributes(m: torch.nn.Module) -> Callable[[], None]:
        kept = OrderedDict(vars(m))

        def undo() -> None:
            own = vars(m)
            for key in [k for k in own if k not in kept]:
                del own[key]
            own.update(kept)

        return undo

    def restore(self) -> None:
        """Put everything back."""
        for undo in self._undo:
            undo()


def _refill(container: Any, items: Any) -> None:
    """Let a deque or a dict hold `items` again, and nothing else."""
    container.clear()
    if isinstance(items, dict):
        container.update(items)
    else:
        container.extend(items)
