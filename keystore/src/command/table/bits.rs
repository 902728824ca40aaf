//! The table of commands about bit commands.

use super::{Command, acl, command, flag};

pub(super) static TABLE: &[Command] = &[];
