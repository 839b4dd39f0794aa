cdef bint any_damaged() noexcept nogil
