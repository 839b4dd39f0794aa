"""The indexer's record of a value, its limits, and the outcomes of a walk."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

# An opcode is read when its argument, without a payload that is only skipped, is in the window.
cdef enum:
    HEAD = 600
    NAME_LIMIT = 250
    # Windows of a file: short if elements are large and skipped, long if they are small.
    WINDOW_MIN = 1 << 12
    WINDOW_MAX = 1 << 20
    # How many of them are walked before signals are looked at.
    WINDOWS_PER_CALL = 16
    MAX_NESTING = 256
    MAX_STACK = 1 << 22
    MAX_MEMO = 1 << 27
    # Memo ids ascend; the slack is for tools that renumber them.
    MEMO_SLACK = 1 << 12

# The outcomes of a walk. `OUTCOMES` in `indexer` names them in this order.
cdef enum Code:
    OK
    MORE
    NO_MEMORY
    NO_READ
    TRUNCATED
    UNDERFLOW
    NO_MARK
    NESTED
    STACK_LIMIT
    MEMO_LIMIT
    MEMO_UNSET
    MEMO_TWICE
    BORROWED
    UNKNOWN_OPCODE
    UNSAFE_OPCODE
    UNSAFE_GLOBAL
    OLD_OPCODE
    NO_CALLABLE
    NOT_ARRAY
    TOO_MANY
    BAD_PROTOCOL

cdef struct Slot:
    uint64_t start  # offset of the first opcode of the value
    uint32_t base   # number of memo entries before it
    uint32_t memo   # its memo id + 1, or 0
    uint16_t depth  # how deeply containers are nested in it
    uint8_t symbol  # for a string, its position in SYMBOLS
    uint8_t kind    # one of the constants below

cdef enum:
    PLAIN = 0
    BORROW = 1  # fetched from the memo; another slot owns it
    GLOBAL = 2
    STATE = 3   # the tuple that holds the list of elements
    LIST_SLOT = 5  # the list is above the array and four items of its state

cdef struct Memo:
    uint64_t start
    uint64_t end
    uint32_t base
    uint16_t depth
    uint8_t symbol
    uint8_t state   # 0 unset, bit 0 set, bit 1 referred to, bit 2 a global

cdef struct Mark:
    uint64_t start
    uint32_t base
    uint32_t height
