//! The leader: what to ship, what is committed, which replies may go.
