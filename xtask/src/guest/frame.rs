//! What host and guest say to each other over the guest's one serial port: frames of a session's number, a kind, a
//! length and a payload. A session is one command; several run side by side.
//!
//! Output and exit code travel in frames of their own, so nothing in a command's output can be mistaken for its end, and
//! the kernel's messages (which go to the console) cannot get between them.

use std::io::{self, Read, Write};

/// Longest payload of a frame, in bytes: a header that says more is garbage and not a frame.
pub const PAYLOAD_LIMIT_BYTES: usize = 1 << 20;

const HEADER_LEN: usize = 9;

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Host to guest: start the command that the payload encodes (see [`Request`]).
    Run,
    /// Host to guest: send the signal that the payload names to the session's process group.
    Signal,
    /// Guest to host, session 0: commands can be run now.
    Ready,
    /// Guest to host: bytes of the command's standard output.
    Stdout,
    /// Guest to host: bytes of the command's standard error.
    Stderr,
    /// Guest to host, a session's last: the exit code in four little-endian bytes, 128 + n for signal n.
    Exit,
    /// Guest to host, a session's last: the command could not be started, and why.
    NotStarted,
}

impl Kind {
    const ALL: [Kind; 7] =
        [Kind::Run, Kind::Signal, Kind::Ready, Kind::Stdout, Kind::Stderr, Kind::Exit, Kind::NotStarted];

    fn code(self) -> u8 {
        self as u8 + 1
    }

    fn from_code(code: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The command it belongs to; 0 is the guest itself.
    pub session: u32,
    /// What it is about.
    pub kind: Kind,
    /// Whatever the kind says.
    pub payload: Vec<u8>,
}

/// Writes one frame and flushes.
pub fn write(to: &mut impl Write, session: u32, kind: Kind, payload: &[u8]) -> io::Result<()> {
    assert!(payload.len() <= PAYLOAD_LIMIT_BYTES, "a frame's payload is limited");
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    bytes.extend(session.to_le_bytes());
    bytes.push(kind.code());
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads one frame; `None` at an end between frames.
pub fn read(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut header = [0; HEADER_LEN];
    if from.read(&mut header[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut header[1..])?;
    let [s0, s1, s2, s3, kind, l0, l1, l2, l3] = header;
    let kind = Kind::from_code(kind)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no frame has kind {kind}")))?;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if len > PAYLOAD_LIMIT_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes")));
    }
    let mut payload = vec![0; len];
    from.read_exact(&mut payload)?;
    Ok(Some(Frame { session: u32::from_le_bytes([s0, s1, s2, s3]), kind, payload }))
}

/// A command to be run in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment but for what the guest itself adds (`FARKEEP_GUEST*`).
    pub env: Vec<(String, String)>,
    /// The working directory; the guest has the host's directories.
    pub cwd: String,
    /// How much memory the command may lock, in KiB; `None` is no limit. A limit also takes `CAP_IPC_LOCK` away: with
    /// it the kernel would not look at the limit, and a service does not have it either.
    pub memlock_kib: Option<u64>,
}

impl Request {
    /// The payload of a [`Kind::Run`] frame: a list of length-prefixed strings.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |text: &str| {
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
        };
        put(&self.cwd);
        put(&self.memlock_kib.map_or_else(String::new, |kib| kib.to_string()));
        put(&self.argv.len().to_string());
        self.argv.iter().for_each(|word| put(word));
        for (name, value) in &self.env {
            put(name);
            put(value);
        }
        bytes
    }

    /// Undoes [`encode`](Self::encode); `None` if the bytes are not one.
    pub fn decode(mut bytes: &[u8]) -> Option<Request> {
        let mut strings = Vec::new();
        while !bytes.is_empty() {
            let (len, rest) = bytes.split_first_chunk::<4>()?;
            let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            strings.push(String::from_utf8(text.to_vec()).ok()?);
            bytes = rest;
        }
        let mut strings = strings.into_iter();
        let cwd = strings.next()?;
        let memlock_kib = match strings.next()? {
            none if none.is_empty() => None,
            kib => Some(kib.parse().ok()?),
        };
        let words: usize = strings.next()?.parse().ok()?;
        let argv: Vec<String> = strings.by_ref().take(words).collect();
        let mut env = Vec::new();
        while let Some(name) = strings.next() {
            env.push((name, strings.next()?));
        }
        (argv.len() == words && words > 0).then_some(Request { argv, env, cwd, memlock_kib })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_order_and_end_between_frames() {
        let mut bytes = Vec::new();
        write(&mut bytes, 0, Kind::Ready, b"").unwrap();
        write(&mut bytes, 7, Kind::Stdout, b"\x00\x01exit 3\n").unwrap();
        write(&mut bytes, u32::MAX, Kind::Exit, &3i32.to_le_bytes()).unwrap();
        let mut from = bytes.as_slice();
        let frames: Vec<Frame> = std::iter::from_fn(|| read(&mut from).unwrap()).collect();
        assert_eq!(frames.len(), 3);
        assert_eq!(
            frames[1],
            Frame { session: 7, kind: Kind::Stdout, payload: b"\x00\x01exit 3\n".to_vec() }
        );
        assert_eq!((frames[2].session, frames[2].kind), (u32::MAX, Kind::Exit));
    }

    #[test]
    fn a_cut_or_foreign_frame_is_an_error() {
        let mut bytes = Vec::new();
        write(&mut bytes, 1, Kind::Stdout, b"half of it").unwrap();
        assert!(read(&mut &bytes[..bytes.len() - 1]).is_err());
        assert!(read(&mut &bytes[..3]).is_err());
        assert!(read(&mut b"Booting the kernel, please wait".as_slice()).is_err());
        let mut too_long = Vec::new();
        write(&mut too_long, 1, Kind::Stdout, b"").unwrap();
        too_long[5..9].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(&mut too_long.as_slice()).is_err());
    }

    #[test]
    fn every_kind_has_a_code_of_its_own() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(Kind::from_code(0), None);
        assert_eq!(Kind::from_code(Kind::ALL.len() as u8 + 1), None);
    }

    #[test]
    fn a_request_survives_empty_words_newlines_and_equals_signs() {
        let request = Request {
            argv: ["sh", "-c", "echo 'a b'\n", ""].map(str::to_owned).to_vec(),
            env: vec![("A".into(), "x=y\nz".into()), ("B".into(), String::new())],
            cwd: "/some where".into(),
            memlock_kib: Some(64),
        };
        assert_eq!(Request::decode(&request.encode()), Some(request.clone()));
        let unlimited = Request { memlock_kib: None, ..request };
        assert_eq!(Request::decode(&unlimited.encode()), Some(unlimited));
    }

    #[test]
    fn a_damaged_request_is_none() {
        let request = Request { argv: vec!["true".into()], ..Request::default() };
        let bytes = request.encode();
        for len in 0..bytes.len() {
            assert_eq!(Request::decode(&bytes[..len]), None, "cut to {len} bytes");
        }
        assert_eq!(Request::decode(&Request::default().encode()), None, "no command");
    }
}
