cdef void mem_trim() noexcept nogil
cdef void* mem_alloc(size_t n) noexcept nogil
cdef void* mem_zero(size_t n) noexcept nogil
cdef void* mem_resize(void* p, size_t n) noexcept nogil
cdef void* slab_alloc(size_t n) noexcept nogil
cdef void slab_free(void* p, size_t n) noexcept nogil
