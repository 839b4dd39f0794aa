"""What the locator of pickled arrays keeps of a value: where it begins, never what it is."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef struct Slot:
    uint64_t start  # offset of the first opcode of the value
    uint32_t base   # memo entries made before it
    uint32_t memo   # its memo id + 1, or 0
    uint16_t depth  # how deeply containers nest in it
    uint8_t word    # which of WORDS it is
    uint8_t kind    # one of the below

cdef enum:
    PLAIN = 0
    BORROW = 1  # fetched from the memo: another slot owns it
    GLOBAL = 2
    STATE = 3   # the tuple that holds the list of elements
    LIST_SLOT = 5  # the array, then four items of its state, then the list

cdef struct Memo:
    uint64_t start
    uint64_t end
    uint32_t base
    uint16_t depth
    uint8_t word
    uint8_t state   # 0 unset, bit 0 set, bit 1 referred to, bit 2 a global

cdef struct Mark:
    uint64_t start
    uint32_t base
    uint32_t height
