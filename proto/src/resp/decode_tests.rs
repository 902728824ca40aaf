use super::*;
use crate::resp::client::push_command;
use crate::resp::fuzzing::{Outcome, feed, pieces_mean_the_same_as_the_whole};
use proptest::prelude::*;

fn outcome(stream: &[u8]) -> Outcome {
    feed(stream, &Limits::default(), || usize::MAX)
}

fn error_of(stream: &[u8], limits: &Limits) -> String {
    feed(stream, limits, || usize::MAX).end.expect_err("the stream is bad").to_string()
}

#[test]
fn pipelined_commands_are_decoded_one_by_one() {
    let seen = outcome(
        b"*1\r\n$4\r\nPING\r\nset k \"v w\"\r\n*2\r\n$3\r\nGET\r\n$0\r\n\r\n*0\r\n\r\n*-1\r\n*1\r\n$4",
    );
    let commands: Vec<Vec<Vec<u8>>> = vec![
        vec![b"PING".to_vec()],
        vec![b"set".to_vec(), b"k".to_vec(), b"v w".to_vec()],
        vec![b"GET".to_vec(), Vec::new()],
    ];
    assert_eq!(seen, Outcome { commands, empty: 3, end: Ok(6) });
}

#[test]
fn malformed_requests_are_named_as_redis_names_them() {
    let limits = Limits::default();
    let long = |prefix: &str| format!("{prefix}{}", "1".repeat(MAX_LINE_LEN + 1));
    for (stream, text) in [
        ("*x\r\n", "invalid multibulk length"),
        ("*2147483648\r\n", "invalid multibulk length"),
        ("*03\r\n", "invalid multibulk length"),
        ("*+3\r\n", "invalid multibulk length"),
        ("*\r\n", "invalid multibulk length"),
        ("*1\r\nfoo\r\n", "expected '$', got 'f'"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
        ("*1\r\n$x\r\n", "invalid bulk length"),
        ("*1\r\n$536870913\r\n", "invalid bulk length"),
        ("*1\r\n$9223372036854775807\r\n", "invalid bulk length"),
        ("set k \"v\r\n", "unbalanced quotes in request"),
        (&long("*"), "too big mbulk count string"),
        (&long("*1\r\n$"), "too big bulk count string"),
        (&long("set"), "too big inline request"),
    ] {
        assert_eq!(error_of(stream.as_bytes(), &limits), format!("Protocol error: {text}"), "{stream:.40}");
    }
}

#[test]
fn limits_are_tight_before_authentication() {
    let limits = Limits { authenticated: false, ..Limits::default() };
    assert_eq!(error_of(b"*11\r\n", &limits), "Protocol error: unauthenticated multibulk length");
    assert_eq!(error_of(b"*1\r\n$16385\r\n", &limits), "Protocol error: unauthenticated bulk length");
    assert_eq!(feed(b"*10\r\n$16384\r\n", &limits, || 1).end, Ok(13));
}

#[test]
fn error_reply_quotes_the_byte_itself() {
    let reply = |got| {
        let mut out = Vec::new();
        ProtocolError::ExpectedBulk { got }.push_reply(&mut out);
        out
    };
    assert_eq!(reply(0xff), b"-ERR Protocol error: expected '$', got '\xff'\r\n");
    assert_eq!(reply(b'\n'), b"-ERR Protocol error: expected '$', got ' '\r\n");
}

#[test]
fn reader_learns_how_much_of_a_bulk_is_missing() {
    let mut state = DecodeState::default();
    let mut args = Vec::new();
    let mut buf = b"*2\r\n$3\r\nGET\r\n$1000000\r\nabc".to_vec();
    assert_eq!(decode(&mut buf, &mut args, &Limits::default(), &mut state), Ok(Decoded::Incomplete));
    assert_eq!(state.missing_bytes(buf.len()), 1_000_002 - 3);
}

#[test]
fn big_bulk_in_small_pieces_costs_no_rescan() {
    // 64 MiB in 16 KiB pieces: 4,096 calls. A decoder that looked at the bulk again each time would touch 128 GiB.
    let len = 64 << 20;
    let mut buf = format!("*2\r\n$3\r\nGET\r\n${len}\r\n").into_bytes();
    let (mut args, mut state, limits) = (Vec::new(), DecodeState::default(), Limits::default());
    let start = buf.len();
    while buf.len() < start + len {
        assert_eq!(decode(&mut buf, &mut args, &limits, &mut state), Ok(Decoded::Incomplete));
        buf.resize(buf.len() + 16 * 1024, b'x');
    }
    buf.extend_from_slice(b"\r\n");
    assert_eq!(
        decode(&mut buf, &mut args, &limits, &mut state),
        Ok(Decoded::Command { consumed: buf.len() })
    );
    assert_eq!(args, [8..11, start..start + len]);
}

#[test]
fn many_arguments_in_small_pieces_cost_no_rescan() {
    let count = 200_000;
    let mut stream = format!("*{count}\r\n").into_bytes();
    for _ in 0..count {
        stream.extend_from_slice(b"$1\r\nx\r\n");
    }
    let seen = feed(&stream, &Limits::default(), || 100);
    assert_eq!(seen.commands[0].len(), count);
}

/// Streams that are mostly right: commands, inline lines and bits of protocol, with damage.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..14).prop_map(|args| {
            let mut out = Vec::new();
            push_command(&mut out, &args);
            out
        }),
        2 => "[a-z\"' \\\\x0-9]{0,12}\r?\n".prop_map(String::into_bytes),
        1 => r"[*$][-+0-9]{0,10}\r\n".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..10),
        1 => Just(vec![b'7'; MAX_LINE_LEN - 1]),
    ];
    let whole = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    (prop::collection::vec(any::<u8>(), 8), whole).prop_map(|(mut cuts, stream)| {
        cuts.extend(stream);
        cuts
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn stream_means_the_same_however_it_is_cut(data in stream()) {
        pieces_mean_the_same_as_the_whole(&data);
    }

    #[test]
    fn every_command_is_read_back(commands in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6), 0..6)) {
        let mut stream = Vec::new();
        for args in &commands {
            push_command(&mut stream, args);
        }
        prop_assert_eq!(outcome(&stream), Outcome { commands, empty: 0, end: Ok(0) });
    }
}
