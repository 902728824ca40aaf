//! The follower: joining a leader, applying its log, being promoted.
