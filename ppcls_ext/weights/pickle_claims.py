"""Reads a pickle's instructions without running them, and refuses those that would fill the memory or kill Python."""

from __future__ import annotations

import pickletools
from typing import IO, Any

# Honest files nest a handful of tuples. Python computes the hash of a tuple within tuples by recursion and without
# looking at how deep it is: a dictionary's key of many levels overflows the stack and ends the process.
DEEPEST = 200
# The states of random generators have 128 bits. Arithmetic with numbers of millions of digits would not end.
MOST_BITS = 1024
MARK = None
# These may return a tuple that they were given. Lists, dictionaries and sets end a nest: they can be no keys, or know
# their hash.
KEEPING = ("DUP", "REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST")


class RefusedError(Exception):
    """The file asks for something that weights never need."""


def refuse_claims(stream: IO[bytes]) -> None:
    """Refuses the pickle at the place of ``stream`` for memory, depth or numbers that no honest file has.

    A pickle numbers what it will come back to, and Python makes room up to the highest number: eight bytes in a file
    could claim all memory. Honest ones count from zero.

    Raises:
        RefusedError: it skips numbers, nests too deep, or holds an endless number.
        ValueError, LookupError: it is damaged.
    """
    place = stream.tell()
    depths = _Depths()
    for position, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
        if type(argument) is int and argument.bit_length() > MOST_BITS:
            raise RefusedError(f"it holds a whole number of {argument.bit_length()} bits")
        if instruction.name.endswith("PUT") and argument > position:
            raise RefusedError(f"it claims memory for {argument} objects after {position} instructions")
        if depths.after(instruction, argument) > DEEPEST:
            raise RefusedError(f"it holds tuples nested more than {DEEPEST} deep")
    stream.seek(place)


class _Depths:
    """Follows a pickle's stack, knowing of each value only how many tuples stand in one another in it."""

    def __init__(self) -> None:
        self.stack: list[int | None] = []
        self.memo: dict[int, int] = {}

    def after(self, instruction: pickletools.OpcodeInfo, argument: Any) -> int:
        """Carries out an instruction, and returns the depth of the value that it made."""
        name, stack = instruction.name, self.stack
        if name.endswith("PUT") or name == "MEMOIZE":
            self.memo[len(self.memo) if argument is None else argument] = stack[-1] or 0
            return 0
        taken = self._taken(instruction)
        depth = 0
        if name.endswith("GET"):
            depth = self.memo[argument]
        elif "TUPLE" in name:
            depth = 1 + max(taken, default=0)
        elif name in KEEPING:
            depth = max(taken, default=0)
        stack += [MARK if each is pickletools.markobject else depth for each in instruction.stack_after]
        return depth

    def _taken(self, instruction: pickletools.OpcodeInfo) -> list[int]:
        """Takes from the stack what an instruction takes."""
        stack, taken, before = self.stack, [], instruction.stack_before
        count = len(before)
        if pickletools.markobject in before or (instruction.name == "POP" and stack[-1] is MARK):
            count = before.index(pickletools.markobject) if pickletools.markobject in before else 0
            while stack[-1] is not MARK:
                taken.append(stack.pop())
            stack.pop()
        return taken + [stack.pop() or 0 for _ in range(count)]
