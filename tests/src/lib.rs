//! Process-level tests: real clients, crashes, failover.
