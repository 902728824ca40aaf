//! The durable image: pool, log, heap, replay. Knows no Redis, no network, no clock, no threads.
