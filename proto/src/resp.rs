//! RESP, the protocol of Redis and its clients: requests in ([`decode`]), replies out ([`Encoder`]), and the client's
//! side of both ([`client`]) for tools and tests. No I/O and no clock: bytes are passed in, bytes come out.
//!
//! Requests are decoded in place. The caller owns one buffer per connection and one [`DecodeState`]; an argument is a
//! range into that buffer, never a copy. Replies are appended to a buffer the caller owns.

pub mod client;
mod decode;
mod encode;
#[doc(hidden)]
pub mod fuzzing;
mod inline;

pub use decode::{DecodeState, Decoded, Limits, ProtocolError, decode};
pub use encode::{Encoder, Mark};
pub use inline::split_args;
