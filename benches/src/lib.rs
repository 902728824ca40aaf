//! Load generator and side-by-side comparison with redis-server.
