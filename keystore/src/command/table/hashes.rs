//! The table of commands about hashes.

use super::{Command, acl, command, flag};

pub(super) static TABLE: &[Command] = &[];
