//! The `farkeep` binary.

#[expect(dead_code, unused_imports, reason = "the server that reads it is not wired up yet")]
mod config;

fn main() {}
