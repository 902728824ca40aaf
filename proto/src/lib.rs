//! Bytes to messages and back, without any I/O: RESP, redo records, control messages.
