//! One client connection as its worker sees it: socket, unparsed input, session, unsent output.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use farkeep_core::lsn::Lsn;
use farkeep_keystore::command::Command;
use farkeep_proto::resp::DecodeState;

use super::output::Output;
use crate::clients::Client;

/// Bytes asked of the socket in one read while nothing bigger is expected.
const READ_CHUNK_BYTES: usize = 16 * 1024;
/// Largest single read while a big argument is arriving.
const READ_CHUNK_MAX_BYTES: usize = 1024 * 1024;
/// An emptied input buffer above this capacity is given back to the allocator.
const KEEP_INPUT_BYTES: usize = 64 * 1024;

/// A stream socket of either family.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

/// One queued command of a MULTI.
#[derive(Debug)]
pub struct Queued {
    /// The command, looked up and checked when it was queued.
    pub entry: &'static crate::commands::Entry,
    /// Name and arguments.
    pub argv: Vec<Vec<u8>>,
}

impl Queued {
    /// Name and arguments as command functions take them.
    pub fn argv(&self) -> Vec<&[u8]> {
        self.argv.iter().map(Vec::as_slice).collect()
    }
}

/// An open MULTI.
#[derive(Debug, Default)]
pub struct Multi {
    /// What EXEC will run.
    pub queued: Vec<Queued>,
    /// A command was refused while queueing: EXEC answers EXECABORT.
    pub refused: bool,
}

/// CLIENT REPLY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplyMode {
    /// Answer everything.
    #[default]
    On,
    /// Answer nothing.
    Off,
    /// Answer nothing for the command after this one.
    SkipNext,
    /// Answer nothing for this command.
    Skip,
}

/// Why a connection does not go on to its next command.
#[derive(Debug, Clone)]
pub enum Blocked {
    /// WAIT or WAITAOF: until `followers` hold `lsn` durably (and, for WAITAOF, this node does), or the deadline.
    Wait(WaitFor),
    /// The command could not be executed yet and is tried again.
    Retry {
        /// Name and arguments.
        argv: Vec<Vec<u8>>,
        /// What is in the way.
        obstacle: Obstacle,
    },
}

/// What keeps a command from being executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The redo log has no room.
    LogFull {
        /// When the client is told instead, in the node's ms.
        deadline_ms: u64,
    },
    /// CLIENT PAUSE.
    Pause,
    /// The leader is asked to stand down before this node is promoted.
    Handover,
}

/// What a WAIT or WAITAOF waits for.
#[derive(Debug, Clone)]
pub struct WaitFor {
    /// Position that has to be durable.
    pub lsn: Lsn,
    /// Followers asked for.
    pub followers: usize,
    /// WAITAOF's local part: `None` for WAIT.
    pub local: Option<bool>,
    /// When the reached counts are answered anyway; `None` waits for ever.
    pub deadline_ms: Option<u64>,
}

/// The protocol state of a connection.
#[derive(Debug)]
pub struct Session {
    /// Shared with CLIENT LIST and KILL.
    pub client: Arc<Client>,
    /// Selected database.
    pub db: usize,
    /// RESP3 was negotiated.
    pub resp3: bool,
    /// AUTH succeeded, or none is needed.
    pub authenticated: bool,
    /// Open MULTI.
    pub multi: Option<Multi>,
    /// CLIENT REPLY.
    pub reply_mode: ReplyMode,
    /// What it is told although it wants no replies: messages and what concerns its subscriptions.
    pub pushed: Vec<u8>,
    /// The commands of a MULTI are being executed.
    pub in_exec: bool,
    /// End of this client's last write: what WAIT waits for.
    pub last_write: Lsn,
    /// Last command looked up, for CLIENT LIST.
    pub last_command: Option<&'static Command>,
}

impl Session {
    /// A new session.
    pub fn new(client: Arc<Client>, authenticated: bool) -> Self {
        Self {
            client,
            db: 0,
            resp3: false,
            authenticated,
            multi: None,
            reply_mode: ReplyMode::On,
            pushed: Vec::new(),
            in_exec: false,
            last_write: Lsn::ZERO,
            last_command: None,
        }
    }
}

/// What a connection carries.
#[derive(Debug)]
pub enum Protocol {
    /// RESP commands.
    Resp,
    /// A follower's control messages.
    Control(crate::replication::ControlPeer),
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: Stream,
    /// Protocol state.
    pub session: Session,
    /// Bytes read; those before `parsed` are consumed.
    pub input: Vec<u8>,
    /// Index of the first unconsumed byte.
    pub parsed: usize,
    /// Where the decoder stopped in an incomplete command.
    pub decode: DecodeState,
    /// Unsent replies.
    pub output: Output,
    /// Why it is not going on, if it is not.
    pub blocked: Option<Blocked>,
    /// To be closed once its output is sent.
    pub close_after_flush: bool,
    /// To be dropped at the end of the turn.
    pub dead: bool,
    /// Whether the poller watches for writability.
    pub watches_writable: bool,
    /// Since when more waits to be sent than the soft limit allows, in the node's ms.
    pub over_soft_limit_since_ms: Option<u64>,
    /// The peer has closed its direction; replies that are held are still sent.
    pub half_closed: bool,
    /// What the bytes mean.
    pub protocol: Protocol,
}

/// Outcome of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Bytes arrived.
    Data,
    /// Nothing there.
    Empty,
    /// The peer is gone.
    Closed,
}

impl Connection {
    /// A connection that speaks RESP.
    pub fn new(stream: Stream, session: Session) -> Self {
        Self {
            stream,
            session,
            input: Vec::new(),
            parsed: 0,
            decode: DecodeState::default(),
            output: Output::default(),
            blocked: None,
            close_after_flush: false,
            dead: false,
            watches_writable: false,
            over_soft_limit_since_ms: None,
            half_closed: false,
            protocol: Protocol::Resp,
        }
    }

    /// Bytes received and not yet consumed.
    pub fn unparsed(&self) -> usize {
        self.input.len() - self.parsed
    }

    /// Reads once from the socket.
    pub fn read(&mut self) -> ReadOutcome {
        if self.parsed == self.input.len() {
            self.parsed = 0;
            if self.input.capacity() > KEEP_INPUT_BYTES {
                self.input = Vec::new();
            } else {
                self.input.clear();
            }
        } else if self.parsed > READ_CHUNK_MAX_BYTES {
            self.input.drain(..self.parsed);
            self.parsed = 0;
        }
        let want = self.unparsed().clamp(READ_CHUNK_BYTES, READ_CHUNK_MAX_BYTES);
        if self.input.capacity() - self.input.len() < want {
            self.input.reserve(want);
        }
        match rustix::io::read(&self.stream, rustix::buffer::spare_capacity(&mut self.input)) {
            Ok(0) => ReadOutcome::Closed,
            Ok(_) => ReadOutcome::Data,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => ReadOutcome::Empty,
            Err(_) => ReadOutcome::Closed,
        }
    }

    /// Writes what may be sent. `Ok(true)`: nothing sendable is left.
    pub fn write(&mut self) -> io::Result<bool> {
        loop {
            let sendable = self.output.sendable();
            if sendable.is_empty() {
                return Ok(true);
            }
            match rustix::net::send(&self.stream, sendable, rustix::net::SendFlags::NOSIGNAL) {
                Ok(count) => {
                    let all = count == sendable.len();
                    self.output.advance(count);
                    if all {
                        return Ok(true);
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
