"""A consumer's state as bytes, whole or what has changed; see state.pyx for the layout."""
from shardbroker.stream.consumer cimport consumer_t

cdef object consumer_encode(consumer_t* c, bint whole)
