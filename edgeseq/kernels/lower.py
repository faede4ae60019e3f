"""The Python that kernels are written in, as LLVM IR.

A kernel is one function of pointers and 32-bit integers: assignments, `while`, `if`, `break`,
integer arithmetic and the operations of `primitives` and `vectors`. That is a part of what Numba
compiles, with Numba's meaning: the sum, product or shift of two int32 is an int64, `np.int32(...)`
keeps the low 32 bits. Numba infers types for all of Python, which takes 50 to 300 ms a kernel; a
deep model has hundreds. This module takes about one, and `tests/test_kernel_lower.py` holds the
two to the same results.

The operations themselves are Numba intrinsics: their typing and lowering functions are called here
as Numba would.
"""

from __future__ import annotations

import ast
from typing import Any

from llvmlite import ir
from numba.core import types

from edgeseq.errors import BackendError
from edgeseq.kernels import primitives, vectors
from edgeseq.kernels.toolchain import SLOT, Lowered

__all__ = ["lower_kernel"]

_I8, _I64 = ir.IntType(8), ir.IntType(64)
_INTEGERS = {types.int16: 16, types.int32: 32, types.int64: 64}
_LLVM = {kind: ir.IntType(bits) for kind, bits in _INTEGERS.items()}
_LLVM |= {types.voidptr: _I8.as_pointer(), types.boolean: ir.IntType(1)}
_COMPARE = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
_ARITHMETIC = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.LShift: "shl", ast.RShift: "ashr",
    ast.BitAnd: "and_", ast.BitOr: "or_", ast.BitXor: "xor",
}  # fmt: skip
_LOW = (ast.Add, ast.Sub, ast.Mult, ast.BitAnd, ast.BitOr, ast.BitXor)
_CASTS = {"int16": types.int16, "int32": types.int32, "int64": types.int64}


def _operations() -> dict[str, Any]:
    scope = {name: getattr(primitives, name) for name in primitives.__all__}
    return scope | {name: getattr(vectors, name) for name in vectors.__all__}


class _NoContext:
    """What an intrinsic's lowering function asks of Numba's target: the value of `None`."""

    @staticmethod
    def get_dummy_value() -> Any:
        return ir.Constant(_I8.as_pointer(), None)


def _data_type(kind: Any) -> Any:
    """LLVM's type of a Numba type: an integer, a pointer or a register of lanes."""
    return _LLVM[kind] if kind in _LLVM else vectors.REGISTERS[kind]


class _Kernel:
    """Lowers one function definition."""

    def __init__(self, function: ast.FunctionDef, parameters: tuple[str, ...], name: str) -> None:
        self.operations = _operations()
        self.kinds: dict[str, Any] = {}
        for argument, kind in zip(function.args.args, parameters, strict=True):
            self.kinds[argument.arg] = types.voidptr if kind == "ptr" else types.int32
        self.known: dict[int, Any] = {}
        self.settled = False
        self._infer(function.body)
        self.settled = True
        self.module = ir.Module(name)
        formal = [_data_type(self.kinds[a.arg]) for a in function.args.args]
        self.function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), formal), name)
        for argument in self.function.args:
            if isinstance(argument.type, ir.PointerType):
                argument.add_attribute("noalias")
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.cells = {v: self.builder.alloca(_data_type(k), name=v) for v, k in self.kinds.items()}
        for argument, value in zip(function.args.args, self.function.args, strict=True):
            self.builder.store(value, self.cells[argument.arg])
        self.exits: list[Any] = []
        self._block(function.body)
        self.builder.ret_void()

    # -- types -----------------------------------------------------------------------------

    def _infer(self, body: list[ast.stmt]) -> None:
        """Types of all variables; an int32 that is anywhere assigned an int64 is one."""
        assigns = [s for b in body for s in ast.walk(b) if isinstance(s, ast.Assign)]
        before: dict[str, Any] | None = None
        while before != self.kinds:
            before = dict(self.kinds)
            for statement in assigns:
                (target,) = statement.targets
                if not isinstance(target, ast.Name):
                    raise TypeError(f"line {statement.lineno}: assigns to {ast.unparse(target)}")
                kind = self._kind(statement.value)
                have = self.kinds.get(target.id, kind)
                if have is not kind and {have, kind} != {types.int32, types.int64}:
                    raise TypeError(f"{target.id!r} is {have} and {kind}")
                self.kinds[target.id] = have if have is kind else types.int64

    def _kind(self, node: ast.expr) -> Any:
        """The type of an expression; kept once the variables' types are known."""
        kind = self.known.get(id(node))
        if kind is None:
            kind = self._typed(node)
            if self.settled:
                self.known[id(node)] = kind
        return kind

    def _typed(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool()):
                return types.boolean
            case ast.Constant(value=int()) | ast.UnaryOp(op=ast.USub(), operand=ast.Constant()):
                return types.int64
            case ast.Name(id=name):
                return self.kinds[name]
            case ast.BinOp() | ast.UnaryOp():
                return types.int64
            case ast.Compare():
                return types.boolean
            case ast.Call(func=ast.Attribute(attr=cast)):
                return _CASTS[cast]
            case ast.Call(func=ast.Name(id=name), args=args):
                return self._signature(name, args)[0].return_type
        raise TypeError(f"{ast.unparse(node)!r} is not part of the kernels' Python")

    def _signature(self, name: str, args: list[ast.expr]) -> Any:
        return self.operations[name]._defn(None, *(self._kind(a) for a in args))

    # -- statements ------------------------------------------------------------------------

    def _block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.builder.store(self._as(value, self.kinds[name]), self.cells[name])
                case ast.Expr(value=ast.Call() as call):
                    self._value(call)
                case ast.While():
                    self._while(statement)
                case ast.If():
                    self._if(statement)
                case ast.Break():
                    self.builder.branch(self.exits[-1])
                    return
                case _:
                    raise TypeError(f"line {statement.lineno}: {ast.unparse(statement)}")

    def _while(self, loop: ast.While) -> None:
        head, body, done = (self.function.append_basic_block(n) for n in ("head", "body", "done"))
        self.builder.branch(head)
        self.builder.position_at_end(head)
        self._branch(loop.test, body, done)
        self.exits.append(done)
        self.builder.position_at_end(body)
        self._block(loop.body)
        if not self.builder.block.is_terminated:
            self.builder.branch(head)
        self.exits.pop()
        self.builder.position_at_end(done)

    def _if(self, choice: ast.If) -> None:
        then, other, done = (self.function.append_basic_block(n) for n in ("then", "else", "join"))
        self._branch(choice.test, then, other)
        for block, body in ((then, choice.body), (other, choice.orelse)):
            self.builder.position_at_end(block)
            self._block(body)
            if not self.builder.block.is_terminated:
                self.builder.branch(done)
        self.builder.position_at_end(done)

    def _branch(self, test: ast.expr, then: Any, other: Any) -> None:
        if isinstance(test, ast.Constant) and test.value is True:
            self.builder.branch(then)
        else:
            self.builder.cbranch(self._value(test), then, other)

    # -- expressions -----------------------------------------------------------------------

    def _as(self, node: ast.expr, kind: Any) -> Any:
        """The value of an expression, converted to a type."""
        number = self._number(node)
        if number is not None and kind in _INTEGERS:
            half = 1 << (_INTEGERS[kind] - 1)
            return ir.Constant(_LLVM[kind], (number + half) % (2 * half) - half)
        if kind is types.int32 and isinstance(node, ast.BinOp) and type(node.op) in _LOW:
            # The low half of the result follows from the low halves of the operands.
            operate = getattr(self.builder, _ARITHMETIC[type(node.op)])
            return operate(self._as(node.left, kind), self._as(node.right, kind))
        have, value = self._kind(node), self._value(node)
        if have is kind:
            return value
        if have in _INTEGERS and kind in _INTEGERS:
            wider = _INTEGERS[kind] > _INTEGERS[have]
            return (self.builder.sext if wider else self.builder.trunc)(value, _LLVM[kind])
        raise TypeError(f"{ast.unparse(node)!r} is {have}, not {kind}")

    @staticmethod
    def _number(node: ast.expr) -> int | None:
        match node:
            case ast.Constant(value=int() as number):
                return number
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as number)):
                return -number
        return None

    def _value(self, node: ast.expr) -> Any:
        number = self._number(node)
        if number is not None:
            return ir.Constant(_I64, number)
        match node:
            case ast.Name(id=name):
                return self.builder.load(self.cells[name])
            case ast.BinOp(left=left, op=op, right=right):
                operate = getattr(self.builder, _ARITHMETIC[type(op)])
                return operate(self._as(left, types.int64), self._as(right, types.int64))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.builder.neg(self._as(operand, types.int64))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                a, b = self._as(left, types.int64), self._as(right, types.int64)
                return self.builder.icmp_signed(_COMPARE[type(op)], a, b)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="np"), attr=cast), args=[inner]):
                return self._as(inner, _CASTS[cast])
            case ast.Call(func=ast.Name(id=name), args=args):
                signature, lower = self._signature(name, args)
                pairs = zip(args, signature.args, strict=True)
                values = [self._as(a, k) for a, k in pairs]
                return lower(_NoContext, self.builder, signature, values)
        raise TypeError(f"{ast.unparse(node)!r} is not part of the kernels' Python")


def lower_kernel(source: str, parameters: tuple[str, ...], name: str) -> Lowered:
    """Unoptimised LLVM IR of a kernel: one function `name` that returns nothing.

    Args:
        source: defines `kernel(...)`.
        parameters: 'ptr' or 'i32' of each.
        name: of the function.

    Raises:
        BackendError: the source is not part of the Python described above.
    """
    try:
        (function,) = ast.parse(source).body
        assert isinstance(function, ast.FunctionDef)
        text = str(_Kernel(function, parameters, name).module)
    except (SyntaxError, TypeError, ValueError, KeyError, AssertionError) as error:
        raise BackendError(
            f"kernel {name!r} does not compile: {error!r}",
            where="generated kernel",
            fix="report this: a generated kernel must always compile",
        ) from error
    return Lowered(name, text.replace(")\n{", f") {SLOT}\n{{", 1))
