//! The one door to every developer command.

fn main() {}
