//! Bytes to messages and back, without any I/O: RESP, redo records, control messages.

#![forbid(unsafe_code)]

pub mod control;
pub mod glob;
pub mod logfile;
pub mod number;
pub mod redo;
pub mod resp;
pub mod window;
