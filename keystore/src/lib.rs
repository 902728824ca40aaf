//! Redis on top of the durable image: index, expiry, data types, commands. Knows no replica.
