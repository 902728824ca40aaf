//! Bytes to messages and back, without any I/O: RESP, redo records, control messages.
pub mod control;
pub mod window;
