//! The `farkeep` binary.

fn main() {}
