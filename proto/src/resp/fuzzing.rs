//! What the fuzzer and the property tests check alike.

use std::ops::Range;

use super::{DecodeState, Decoded, Limits, ProtocolError, decode};

/// What a connection would have executed, and how its stream ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The commands, each with its arguments.
    pub commands: Vec<Vec<Vec<u8>>>,
    /// Empty requests skipped.
    pub empty: usize,
    /// Bytes of an unfinished command, or the error that ends the connection.
    pub end: Result<usize, ProtocolError>,
}

/// Feeds `stream` to the decoder as if it arrived in pieces of the lengths `pieces` gives, in turn.
pub fn feed(stream: &[u8], limits: &Limits, mut pieces: impl FnMut() -> usize) -> Outcome {
    let mut outcome = Outcome { commands: Vec::new(), empty: 0, end: Ok(0) };
    let (mut buf, mut args, mut state) = (Vec::new(), Vec::<Range<usize>>::new(), DecodeState::default());
    let mut fed = 0;
    while fed < stream.len() {
        let piece = pieces().clamp(1, stream.len() - fed);
        buf.extend_from_slice(&stream[fed..fed + piece]);
        fed += piece;
        loop {
            let consumed = match decode(&mut buf, &mut args, limits, &mut state) {
                Ok(Decoded::Incomplete) => break,
                Ok(Decoded::Empty { consumed }) => {
                    outcome.empty += 1;
                    consumed
                }
                Ok(Decoded::Command { consumed }) => {
                    assert!(!args.is_empty(), "a command has at least its name");
                    outcome.commands.push(args.iter().map(|arg| buf[arg.clone()].to_vec()).collect());
                    consumed
                }
                Err(error) => {
                    outcome.end = Err(error);
                    return outcome;
                }
            };
            assert!(consumed > 0, "a decoded request takes bytes");
            assert!(!state.is_mid_command(), "nothing is remembered between commands");
            buf.drain(..consumed);
        }
        // Another connection may use the vector in between.
        args.clear();
        args.push(0..usize::MAX);
    }
    outcome.end = Ok(buf.len());
    outcome
}

/// Checks that a stream means the same however it is cut into pieces, with the cuts taken from its own bytes.
///
/// # Panics
/// When it does not.
pub fn pieces_mean_the_same_as_the_whole(data: &[u8]) {
    let (cuts, stream) = data.split_at(data.len().min(8));
    let limits = Limits { max_bulk_len: 1 << 20, authenticated: cuts.first().is_none_or(|b| b & 1 == 0) };
    let whole = feed(stream, &limits, || usize::MAX);
    let bytewise = feed(stream, &limits, || 1);
    let mut lengths = cuts.iter().cycle();
    let cut = feed(stream, &limits, || lengths.next().map_or(1, |&b| usize::from(b) + 1));
    assert_eq!(whole, bytewise);
    assert_eq!(whole, cut);
}
