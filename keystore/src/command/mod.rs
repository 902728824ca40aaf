//! Commands: the table that names them, the executor that runs one, and one file per family.
//!
//! A handler gets its context, the request's words (the command's name is word 0) and an encoder for its
//! reply. It owns no state. If it fails, [`execute`] undoes all it did; so it may write, and reply, before it
//! knows that it will succeed.

pub mod bitfield;
pub mod bits;
pub mod databases;
pub mod execute;
pub mod expire;
pub mod generic;
pub mod hashes;
pub mod inspect;
pub mod lcs;
mod parse;
pub mod scan;
pub mod strings;
pub mod table;

pub use table::{Command, Handler, all, lookup};
