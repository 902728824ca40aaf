//! The table of commands about keys of any type, databases and memory.

use super::{Command, acl, command, flag};

pub(super) static TABLE: &[Command] = &[];
