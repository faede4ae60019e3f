"""Arithmetic that small cores take from a run-time library, as part of the object.

Armv6-M has neither a 64-bit product, 64-bit shifts by a variable amount, a division nor a count of
leading zeros: LLVM calls a function of libgcc or compiler-rt. An object that needs one carries its
own copy under a local symbol, so that nothing has to be linked to it.
"""

from __future__ import annotations

__all__ = ["SUPPORT"]

_MULTIPLY = """
define i64 @NAME(i64 %a, i64 %b) #91 {
  %al = trunc i64 %a to i32
  %bl = trunc i64 %b to i32
  %as = lshr i64 %a, 32
  %ah = trunc i64 %as to i32
  %bs = lshr i64 %b, 32
  %bh = trunc i64 %bs to i32
  %a0 = and i32 %al, 65535
  %b0 = and i32 %bl, 65535
  %a1 = lshr i32 %al, 16
  %b1 = lshr i32 %bl, 16
  %p00 = mul i32 %a0, %b0
  %p01 = mul i32 %a0, %b1
  %p10 = mul i32 %a1, %b0
  %p11 = mul i32 %a1, %b1
  %c0 = lshr i32 %p00, 16
  %c1 = and i32 %p01, 65535
  %c2 = and i32 %p10, 65535
  %c3 = add i32 %c0, %c1
  %mid = add i32 %c3, %c2
  %l0 = and i32 %p00, 65535
  %l1 = shl i32 %mid, 16
  %lo = or i32 %l0, %l1
  %h0 = lshr i32 %p01, 16
  %h1 = lshr i32 %p10, 16
  %h2 = lshr i32 %mid, 16
  %h3 = add i32 %p11, %h0
  %h4 = add i32 %h3, %h1
  %h5 = add i32 %h4, %h2
  %x0 = mul i32 %al, %bh
  %x1 = mul i32 %ah, %bl
  %h6 = add i32 %h5, %x0
  %hi = add i32 %h6, %x1
  %r0 = zext i32 %hi to i64
  %r1 = shl i64 %r0, 32
  %r2 = zext i32 %lo to i64
  %r = or i64 %r1, %r2
  ret i64 %r
}
"""

_SHIFT_RIGHT = """
define i64 @NAME(i64 %a, i32 %n) #91 {
entry:
  %al = trunc i64 %a to i32
  %as = lshr i64 %a, 32
  %ah = trunc i64 %as to i32
  %large = icmp uge i32 %n, 32
  br i1 %large, label %far, label %near
far:
  %n0 = sub i32 %n, 32
  %l0 = KIND i32 %ah, %n0
  %h0 = FILL
  br label %join
near:
  %zero = icmp eq i32 %n, 0
  br i1 %zero, label %join, label %some
some:
  %back = sub i32 32, %n
  %l1 = lshr i32 %al, %n
  %l2 = shl i32 %ah, %back
  %l3 = or i32 %l1, %l2
  %h1 = KIND i32 %ah, %n
  br label %join
join:
  %lo = phi i32 [ %l0, %far ], [ %al, %near ], [ %l3, %some ]
  %hi = phi i32 [ %h0, %far ], [ %ah, %near ], [ %h1, %some ]
  %r0 = zext i32 %hi to i64
  %r1 = shl i64 %r0, 32
  %r2 = zext i32 %lo to i64
  %r = or i64 %r1, %r2
  ret i64 %r
}
"""

_SHIFT_LEFT = """
define i64 @NAME(i64 %a, i32 %n) #91 {
entry:
  %al = trunc i64 %a to i32
  %as = lshr i64 %a, 32
  %ah = trunc i64 %as to i32
  %large = icmp uge i32 %n, 32
  br i1 %large, label %far, label %near
far:
  %n0 = sub i32 %n, 32
  %h0 = shl i32 %al, %n0
  br label %join
near:
  %zero = icmp eq i32 %n, 0
  br i1 %zero, label %join, label %some
some:
  %back = sub i32 32, %n
  %h1 = shl i32 %ah, %n
  %h2 = lshr i32 %al, %back
  %h3 = or i32 %h1, %h2
  %l1 = shl i32 %al, %n
  br label %join
join:
  %lo = phi i32 [ 0, %far ], [ %al, %near ], [ %l1, %some ]
  %hi = phi i32 [ %h0, %far ], [ %ah, %near ], [ %h3, %some ]
  %r0 = zext i32 %hi to i64
  %r1 = shl i64 %r0, 32
  %r2 = zext i32 %lo to i64
  %r = or i64 %r1, %r2
  ret i64 %r
}
"""

_DIVIDE = """
define i32 @NAME(i32 %a, i32 %b) #91 {
entry:
  br label %loop
loop:
  %bit = phi i32 [ 31, %entry ], [ %next, %loop ]
  %rest = phi i32 [ 0, %entry ], [ %left, %loop ]
  %made = phi i32 [ 0, %entry ], [ %quotient, %loop ]
  %high = lshr i32 %a, %bit
  %low = and i32 %high, 1
  %twice = shl i32 %rest, 1
  %now = or i32 %twice, %low
  %carry = icmp slt i32 %rest, 0
  %enough = icmp uge i32 %now, %b
  %take = or i1 %carry, %enough
  %less = sub i32 %now, %b
  %left = select i1 %take, i32 %less, i32 %now
  %digit = zext i1 %take to i32
  %moved = shl i32 %made, 1
  %quotient = or i32 %moved, %digit
  %next = sub i32 %bit, 1
  %more = icmp sge i32 %next, 0
  br i1 %more, label %loop, label %done
done:
  ret i32 %quotient
}
"""

_LEADING_ZEROS = """
define i32 @NAME(i32 %a) #91 {
entry:
  br label %loop
loop:
  %count = phi i32 [ 0, %entry ], [ %next, %some ]
  %left = phi i32 [ %a, %entry ], [ %moved, %some ]
  %high = icmp slt i32 %left, 0
  %all = icmp eq i32 %count, 32
  %end = or i1 %high, %all
  br i1 %end, label %done, label %some
some:
  %next = add i32 %count, 1
  %moved = shl i32 %left, 1
  br label %loop
done:
  ret i32 %count
}
"""

_ARITHMETIC = _SHIFT_RIGHT.replace("KIND", "ashr").replace("FILL", "ashr i32 %ah, 31")
_LOGICAL = _SHIFT_RIGHT.replace("KIND", "lshr").replace("FILL", "add i32 0, 0")

#: LLVM IR of each library function, by the names LLVM calls it.
SUPPORT: dict[str, str] = {
    name: text.replace("NAME", name)
    for text, names in (
        (_MULTIPLY, ("__muldi3", "__aeabi_lmul")),
        (_ARITHMETIC, ("__ashrdi3", "__aeabi_lasr")),
        (_LOGICAL, ("__lshrdi3", "__aeabi_llsr")),
        (_SHIFT_LEFT, ("__ashldi3", "__aeabi_llsl")),
        (_DIVIDE, ("__udivsi3", "__aeabi_uidiv")),
        (_LEADING_ZEROS, ("__clzsi2",)),
    )
    for name in names
}
