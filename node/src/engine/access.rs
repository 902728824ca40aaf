//! What the node's role and state allow a command to do.

use farkeep_keystore::command::table::flag;
use farkeep_keystore::command::{Command, Handler};

/// What commands may do at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A leader with enough followers.
    ReadWrite,
    /// A follower.
    ReadOnly,
    /// A follower that holds no usable image yet.
    Loading,
    /// A leader with too few followers to acknowledge a write.
    NoReplicas,
    /// The log could not be made persistent: nothing more is written until a restart recovers.
    Failed,
}

impl Access {
    /// Why `command` is refused, in Redis's words, or `None` if it is not.
    pub fn refusal(self, command: &Command) -> Option<&'static str> {
        let writes = command.flags.has(flag::WRITE);
        let data = !matches!(command.handler, Handler::Node);
        match self {
            Access::ReadWrite => None,
            Access::ReadOnly if writes => Some("READONLY You can't write against a read only replica."),
            Access::NoReplicas if writes => Some("NOREPLICAS Not enough good replicas to write."),
            Access::Loading if data => {
                Some("LOADING Farkeep is waiting for its first synchronisation with its leader")
            }
            Access::Failed if writes => Some(
                "MISCONF Farkeep could not make its log persistent and takes no writes until it is restarted",
            ),
            _ => None,
        }
    }
}
