//! The `farkeep` binary.

#[cfg_attr(not(test), expect(dead_code, reason = "the server that answers COMMAND is not wired up yet"))]
mod commands {
    pub mod command;
}
#[expect(dead_code, unused_imports, reason = "the server that reads it is not wired up yet")]
mod config;

fn main() {}
