//! The messages of the control channel, and how they are cut out of a byte stream.
//!
//! The control channel is a connection to the leader's ordinary RESP port that a `FARKEEP.REPLICATE` command has
//! turned over to these messages. It carries decisions (who joins, from where, over which fabric) and signs of
//! life; the log itself never travels here but through the follower's window. Losing the channel loses nothing
//! but the session: all that matters is in the two pools, and a new `Hello` says it again.
//!
//! Every message is a [`Envelope`] behind its length as a protobuf varint. The structs below *are* the schema:
//! prost derives the codec from them, so there is no second description that could differ. A tag, once used,
//! keeps its meaning; unknown fields are skipped, so that nodes of neighbouring versions can talk.
//!
//! This module knows no socket. [`encode`] appends to a buffer, [`decode`] takes from one and says how much.

use prost::Message;

/// The version of the replication protocol that this build speaks; a `Hello` with another one is refused.
pub const PROTOCOL_VERSION: u32 = 2;

/// The longest message that [`decode`] accepts. The largest one is a `Hello` or `Welcome` with a full epoch history,
/// about 3 KiB.
pub const MAX_MESSAGE_LEN_BYTES: usize = 1 << 20;

/// Exactly one message.
#[derive(Clone, PartialEq, Message)]
pub struct Envelope {
    /// The message; `None` when a newer peer sent a kind that this build does not know.
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 18, 20, 21")]
    pub body: Option<Body>,
}

/// The kinds of messages.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// Follower to leader, first: who I am and what I hold.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// Leader to follower: you are in; truncate to here and open your window.
    #[prost(message, tag = "2")]
    Welcome(Welcome),
    /// Leader to follower: you cannot join, and why.
    #[prost(message, tag = "3")]
    Refuse(Refuse),
    /// Follower to leader: my log ends where you said, my new epoch is durable, my window is open.
    #[prost(message, tag = "4")]
    Ready(Ready),
    /// Leader to follower: I am alive, and this is how far the group is.
    #[prost(message, tag = "5")]
    Heartbeat(Heartbeat),
    /// Follower to leader: I am alive, and this is how far I am.
    #[prost(message, tag = "6")]
    Status(Status),
    /// Either way: this session ends, and why.
    #[prost(message, tag = "7")]
    Goodbye(Goodbye),
    /// Leader to follower: open your window to rdma as well, for this session to go on over it. Answered by another `Ready`.
    #[prost(message, tag = "8")]
    TryRdma(TryRdma),
    /// Leader to follower: a client has published a message; tell your subscribers.
    #[prost(message, tag = "16")]
    Published(Published),
    /// Either way: a planned change of the leader.
    #[prost(message, tag = "17")]
    Handover(Handover),
    /// Leader to follower: who else follows, so that a failover finds everybody although the leader is gone.
    #[prost(message, tag = "18")]
    Peers(Peers),
    /// Leader to follower: the next step of a walk over the image, a delta sync or a scrub.
    #[prost(message, tag = "20")]
    Chunk(Chunk),
    /// Follower to leader: what became of a step.
    #[prost(message, tag = "21")]
    ChunkAnswer(ChunkAnswer),
}

/// One reign in an epoch history.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Reign {
    /// The epoch's number.
    #[prost(uint32, tag = "1")]
    pub epoch: u32,
    /// The 20 random bytes that tell two reigns of the same number apart.
    #[prost(bytes = "vec", tag = "2")]
    pub replid: Vec<u8>,
    /// Where the reign's first record starts.
    #[prost(fixed64, tag = "3")]
    pub start_lsn: u64,
}

/// How far a node is.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Progress {
    /// End of the last validated, persistent transaction of the log.
    #[prost(fixed64, tag = "1")]
    pub durable_lsn: u64,
    /// End of the last transaction stored into the image.
    #[prost(fixed64, tag = "2")]
    pub applied_lsn: u64,
    /// End of the last transaction that the image holds persistently.
    #[prost(fixed64, tag = "3")]
    pub checkpoint_lsn: u64,
}

/// A follower introduces itself.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the follower.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// The version of redo records and window that the follower understands.
    #[prost(uint32, tag = "2")]
    pub log_format: u32,
    /// The follower's node id, 16 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub node_id: Vec<u8>,
    /// The dataset in the follower's pool, 16 bytes, or empty when the pool has none yet.
    #[prost(bytes = "vec", tag = "4")]
    pub dataset_id: Vec<u8>,
    /// The reigns that the follower's log has seen, oldest first.
    #[prost(message, repeated, tag = "5")]
    pub history: Vec<Reign>,
    /// How far the follower is.
    #[prost(message, required, tag = "6")]
    pub progress: Progress,
    /// The highest epoch that the follower has promised to; it takes part in none below.
    #[prost(uint32, tag = "7")]
    pub promised_epoch: u32,
    /// Length of the follower's ring in bytes.
    #[prost(uint64, tag = "8")]
    pub ring_len: u64,
    /// Length of a segment of it in bytes.
    #[prost(uint64, tag = "9")]
    pub segment_len: u64,
    /// The fabrics that the follower can be reached by, best first.
    #[prost(message, repeated, tag = "10")]
    pub fabrics: Vec<FabricOffer>,
    /// The port at which the follower serves its own clients, for `INFO` and `ROLE`.
    #[prost(uint32, tag = "11")]
    pub listening_port: u32,
    /// The address that the follower wants to be announced under; empty: the one it connects from.
    #[prost(string, tag = "12")]
    pub announce_address: String,
    /// The follower's `farkeep` version, for logs only.
    #[prost(string, tag = "13")]
    pub software: String,
    /// The follower's image is in the middle of a delta sync.
    #[prost(bool, tag = "14")]
    pub mid_sync: bool,
    /// How many bytes of the image, from its beginning on, that sync had settled by `checkpoint_lsn`.
    #[prost(uint64, tag = "15")]
    pub sync_cursor: u64,
    /// The operator lets the leader's dataset take the place of whatever the follower's pool holds.
    #[prost(bool, tag = "16")]
    pub replace_dataset: bool,
    /// Which promotion of the number of `promised_epoch` the follower has promised to, 8 bytes; empty: any.
    #[prost(bytes = "vec", tag = "17")]
    pub promised_claim: Vec<u8>,
}

/// A way to reach a window.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FabricOffer {
    /// The fabric's name: `tcp`, `shm` or `rdma`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// shm: the boot id of the host, which tells whether both nodes are on the same one.
    #[prost(string, tag = "2")]
    pub host: String,
    /// shm: the path of the log; rdma: the address to connect to.
    #[prost(string, tag = "3")]
    pub address: String,
    /// shm: where in the file the window starts.
    #[prost(uint64, tag = "4")]
    pub window_at: u64,
    /// Length of the window in bytes.
    #[prost(uint64, tag = "5")]
    pub window_len: u64,
    /// Why this fabric cannot be used although it is listed; empty when it can.
    #[prost(string, tag = "7")]
    pub unusable: String,
}

/// The leader lets a follower in.
#[derive(Clone, PartialEq, Message)]
pub struct Welcome {
    /// The session's number; a tcp data channel names it, and every later message bears it.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// The leader's node id, 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub node_id: Vec<u8>,
    /// The leader's dataset id, 16 bytes; an empty follower takes it over.
    #[prost(bytes = "vec", tag = "3")]
    pub dataset_id: Vec<u8>,
    /// The leader's reigns, oldest first; the last one is the current.
    #[prost(message, repeated, tag = "4")]
    pub history: Vec<Reign>,
    /// The last common point of the two logs. The follower truncates to it, and shipping starts there.
    #[prost(fixed64, tag = "5")]
    pub resume_lsn: u64,
    /// The leader's `committed_lsn`.
    #[prost(fixed64, tag = "6")]
    pub committed_lsn: u64,
    /// The fabric that was chosen.
    #[prost(string, tag = "7")]
    pub fabric: String,
    /// Why no better fabric was chosen; empty when there is none.
    #[prost(string, tag = "8")]
    pub fabric_reason: String,
    /// How often the leader will send a heartbeat.
    #[prost(uint32, tag = "9")]
    pub heartbeat_ms: u32,
    /// After how long a silence either side gives the other up.
    #[prost(uint32, tag = "10")]
    pub deadline_ms: u32,
    /// The leader's `farkeep` version, for logs only.
    #[prost(string, tag = "11")]
    pub software: String,
    /// Length of the leader's ring; an empty follower makes its own as long.
    #[prost(uint64, tag = "12")]
    pub ring_len: u64,
    /// Length of a segment of it.
    #[prost(uint64, tag = "13")]
    pub segment_len: u64,
    /// The follower's log and image are of no use here: it is to begin a delta sync at `resume_lsn`.
    #[prost(message, optional, tag = "14")]
    pub begin_sync: Option<BeginSync>,
}

/// Where a delta sync begins. The follower's log starts anew at the welcome's `resume_lsn`, which is the end of a record.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct BeginSync {
    /// The checksum of that record, which the next one continues.
    #[prost(fixed32, tag = "1")]
    pub crc: u32,
    /// The epoch of that record.
    #[prost(uint32, tag = "2")]
    pub epoch: u32,
    /// Length of the leader's image there, in bytes.
    #[prost(uint64, tag = "3")]
    pub image_len: u64,
}

/// Why a leader does not let a follower in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum RefuseReason {
    /// A newer leader's reason that this build does not know; the text says it.
    Unknown = 0,
    /// The two builds do not speak the same protocol or log format.
    Version = 1,
    /// The follower's pool holds another dataset.
    ForeignDataset = 2,
    /// The rings differ in length or segment length.
    Geometry = 3,
    /// The follower has followed a later epoch than this leader's.
    StaleLeader = 6,
    /// This node is not a leader.
    NotLeader = 7,
    /// No more followers are accepted.
    TooMany = 8,
    /// No fabric that both sides can use.
    NoFabric = 9,
    /// Not now (a reign is being renewed); the same request may succeed in a moment.
    TryAgain = 10,
}

/// The leader does not let a follower in.
#[derive(Clone, PartialEq, Message)]
pub struct Refuse {
    /// The kind of reason.
    #[prost(enumeration = "RefuseReason", tag = "1")]
    pub reason: i32,
    /// The reason in words, with the numbers that matter.
    #[prost(string, tag = "2")]
    pub text: String,
    /// The leader's epoch.
    #[prost(uint32, tag = "3")]
    pub epoch: u32,
}

/// The follower is ready for the log.
#[derive(Clone, PartialEq, Message)]
pub struct Ready {
    /// The session of the `Welcome`.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// Where its log ends now; the `resume_lsn` of the `Welcome`.
    #[prost(message, required, tag = "2")]
    pub progress: Progress,
    /// rdma: the window that is open to this session.
    #[prost(message, optional, tag = "3")]
    pub rdma: Option<RdmaWindow>,
}

/// A window that a leader's network card may write to.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RdmaWindow {
    /// The descriptor of the registered region.
    #[prost(bytes = "vec", tag = "1")]
    pub descriptor: Vec<u8>,
    /// Length of the window in bytes.
    #[prost(uint64, tag = "2")]
    pub window_len: u64,
    /// What a completed flush rests on: `apm`, the card alone, or `gpspm`, the follower's agent.
    #[prost(string, tag = "3")]
    pub mode: String,
}

/// The leader is alive.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Heartbeat {
    /// The session.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// The leader's epoch.
    #[prost(uint32, tag = "2")]
    pub epoch: u32,
    /// The leader's `appended_lsn`.
    #[prost(fixed64, tag = "3")]
    pub appended_lsn: u64,
    /// The leader's `committed_lsn`.
    #[prost(fixed64, tag = "4")]
    pub committed_lsn: u64,
    /// An end of a transaction: this session has made the follower's log persistent up to there, so far as its leader can know. 0: no
    /// such end yet, or a leader that does not say.
    #[prost(fixed64, tag = "5")]
    pub flushed_lsn: u64,
}

/// The follower is alive.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Status {
    /// The session.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// How far the follower is.
    #[prost(message, required, tag = "2")]
    pub progress: Progress,
}

/// A session over tcp could go on over rdma, if that works (again).
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct TryRdma {
    /// The session.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
}

/// The session ends.
#[derive(Clone, PartialEq, Message)]
pub struct Goodbye {
    /// The session.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// Why.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// The steps of a planned change of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum HandoverStep {
    /// A newer peer's step that this build does not know.
    Unknown = 0,
    /// Follower to leader: I am to be promoted; stand down.
    Ask = 1,
    /// Leader to follower: I take no more writes, and my log ends at `end_lsn`.
    Grant = 2,
    /// Follower to leader: I have been promoted.
    Taken = 3,
    /// Leader to follower: you hold all of my log; ask me to stand down, and take over.
    Offer = 4,
    /// Leader to follower: do not take over, I stand down for somebody else. Follower to leader: I do not take over; lead on.
    Refuse = 5,
    /// Former leader to a follower that wants to join: somebody else has taken over; follow `address`, `port`.
    Moved = 6,
}

/// One step of a planned change of the leader.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Handover {
    /// The session.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// Which step.
    #[prost(enumeration = "HandoverStep", tag = "2")]
    pub step: i32,
    /// Grant: where the leader's log ends, or 0 if the follower is to take over with what it has.
    #[prost(fixed64, tag = "3")]
    pub end_lsn: u64,
    /// Moved: the new leader's host.
    #[prost(string, tag = "4")]
    pub address: String,
    /// Moved: its port.
    #[prost(uint32, tag = "5")]
    pub port: u32,
    /// Ask: the follower's number for this request. Grant: the number of the request that is granted.
    #[prost(uint64, tag = "6")]
    pub request: u64,
    /// Ask: the leader has offered its place.
    #[prost(bool, tag = "7")]
    pub offered: bool,
}

/// All followers of a leader, as clients reach them, and on how many of them a write is durable before it is acknowledged.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Peers {
    /// The followers.
    #[prost(message, repeated, tag = "1")]
    pub followers: Vec<PeerAddress>,
    /// The leader's `sync-followers`.
    #[prost(uint32, tag = "2")]
    pub sync_followers: u32,
    /// Which of them is told this.
    #[prost(message, optional, tag = "3")]
    pub yourself: Option<PeerAddress>,
}

/// What a pool remembers of the group. It is not sent to anybody.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Remembered {
    /// Whom the node follows; nobody if it leads.
    #[prost(message, optional, tag = "1")]
    pub leader: Option<PeerAddress>,
    /// What it knows.
    #[prost(message, required, tag = "2")]
    pub peers: Peers,
}

/// What a follower holds that has left its leader for a peer that is about to be promoted.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Holdings {
    /// The epoch of the last record of its log that counts (`EpochHistory::standing`).
    #[prost(uint32, tag = "1")]
    pub log_epoch: u32,
    /// Where that record ends. With the epoch it says which log is the most advanced.
    #[prost(fixed64, tag = "8")]
    pub log_end_lsn: u64,
    /// Where its log ends.
    #[prost(fixed64, tag = "2")]
    pub durable_lsn: u64,
    /// Where its log begins.
    #[prost(fixed64, tag = "3")]
    pub oldest_lsn: u64,
    /// It takes part in no epoch below this one.
    #[prost(uint32, tag = "4")]
    pub promised_epoch: u32,
    /// The reigns that its log has seen, oldest first.
    #[prost(message, repeated, tag = "5")]
    pub history: Vec<Reign>,
    /// Its dataset.
    #[prost(bytes = "vec", tag = "6")]
    pub dataset_id: Vec<u8>,
    /// The number of its coming: by this it is dismissed if nobody is promoted, and goes back to whom it has left.
    #[prost(uint64, tag = "7")]
    pub coming: u64,
}

/// Where clients reach a node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct PeerAddress {
    /// Its host.
    #[prost(string, tag = "1")]
    pub host: String,
    /// Its port.
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

/// What a step of a walk over the image is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ChunkStep {
    /// A newer leader's step that this build does not know; the session cannot go on.
    Unknown = 0,
    /// A walk begins: replay nothing more until told to, and answer `Ready`.
    Begin = 1,
    /// The leader's bytes have this hash: answer `Same` or `Differs`.
    Compare = 2,
    /// The leader's bytes are all zero: make them so here, and answer `Taken`.
    Zero = 3,
    /// The leader's bytes, or those blocks of them that the follower lacks, lie in a staging slot: store them, and answer `Taken` or
    /// `Torn`. A follower that answers so is sent all bytes.
    Stored = 4,
    /// Nothing is to be done here but to replay up to this position.
    Mark = 5,
    /// The walk is over: answer `Done`.
    End = 6,
}

/// A step of a walk over the image. It is taken when exactly the records before `at_lsn` have been replayed, and none behind
/// it is before the next step is known. `at_lsn` never falls from one step to the next.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Chunk {
    /// The session.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// Which step.
    #[prost(enumeration = "ChunkStep", tag = "2")]
    pub step: i32,
    /// The `applied_lsn` at which the leader's bytes were what this says.
    #[prost(fixed64, tag = "3")]
    pub at_lsn: u64,
    /// Where the chunk begins in the image.
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    /// Its length in bytes.
    #[prost(uint32, tag = "5")]
    pub len: u32,
    /// Compare, Stored: the hash of the leader's bytes.
    #[prost(fixed64, tag = "6")]
    pub hash: u64,
    /// Stored: the number of the staging slot.
    #[prost(uint32, tag = "7")]
    pub slot: u32,
    /// Length of the leader's image, for showing how far the walk is.
    #[prost(uint64, tag = "8")]
    pub image_len: u64,
    /// Stored: which blocks of the chunk are in the slot (`core::chunk::Patch`). Empty: all of its bytes are.
    #[prost(bytes = "vec", tag = "9")]
    pub blocks: Vec<u8>,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ChunkOutcome {
    /// A newer follower's answer that this build does not know.
    Unknown = 0,
    /// Begin: nothing behind `applied_lsn` is replayed until the first step comes.
    Ready = 1,
    /// Compare: the bytes here are the leader's.
    Same = 2,
    /// Compare: they are not; send them.
    Differs = 3,
    /// Zero, Stored: they are now, and the slot is free.
    Taken = 4,
    /// Stored: what lies in the slot is not what was announced; the slot is free, send the chunk again.
    Torn = 5,
    /// End: the image is the leader's and makes sense by itself, persistently.
    Done = 6,
}

/// A follower's answer to a step of a walk.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ChunkAnswer {
    /// The session.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// What became of it.
    #[prost(enumeration = "ChunkOutcome", tag = "2")]
    pub outcome: i32,
    /// Where the chunk begins in the image.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    /// Ready: the follower's `applied_lsn`.
    #[prost(fixed64, tag = "4")]
    pub applied_lsn: u64,
    /// Differs: what the blocks of the follower's chunk are (`core::chunk::describe`). Empty: it wants all bytes.
    #[prost(fixed32, repeated, tag = "5")]
    pub described: Vec<u32>,
}

/// A message from a client to those who subscribe to a channel, or a part of one. It is no part of the log: it may be lost, and
/// nothing depends on it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Published {
    /// The channel's name.
    #[prost(bytes = "vec", tag = "1")]
    pub channel: Vec<u8>,
    /// The message, or the next part of it.
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
    /// The channel is a shard channel.
    #[prost(bool, tag = "3")]
    pub sharded: bool,
    /// More parts of the same message follow.
    #[prost(bool, tag = "4")]
    pub more: bool,
}

/// Bytes that are not a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The announced length is above [`MAX_MESSAGE_LEN_BYTES`]: the peer is not speaking this protocol.
    #[error("a control message of {len} bytes was announced, at most {MAX_MESSAGE_LEN_BYTES} are allowed")]
    TooLong {
        /// The announced length.
        len: u64,
    },
    /// The bytes of a whole message make no sense.
    #[error("a control message could not be decoded")]
    Malformed(#[from] prost::DecodeError),
}

/// Appends `body` with its length to `out`.
pub fn encode(body: Body, out: &mut Vec<u8>) {
    let envelope = Envelope { body: Some(body) };
    out.reserve(envelope.encoded_len() + 4);
    envelope.encode_length_delimited(out).expect("a vector grows as needed");
}

/// Takes the first message out of `bytes`: the message and how many bytes it took, or `None` when it is not yet
/// complete. A message of a kind this build does not know comes as an `Envelope` without a body.
///
/// # Errors
/// [`ControlError`] when the bytes cannot be a message; the connection is then of no more use.
pub fn decode(bytes: &[u8]) -> Result<Option<(Envelope, usize)>, ControlError> {
    let mut rest = bytes;
    let mut len = 0u64;
    for i in 0.. {
        let Some((&byte, tail)) = rest.split_first() else { return Ok(None) };
        rest = tail;
        len |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            break;
        }
        if i == 4 {
            return Err(ControlError::TooLong { len });
        }
    }
    if len > MAX_MESSAGE_LEN_BYTES as u64 {
        return Err(ControlError::TooLong { len });
    }
    let len = len as usize;
    if rest.len() < len {
        return Ok(None);
    }
    let envelope = Envelope::decode(&rest[..len])?;
    Ok(Some((envelope, bytes.len() - rest.len() + len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Body {
        Body::Hello(Hello {
            protocol: PROTOCOL_VERSION,
            log_format: 1,
            node_id: vec![1; 16],
            dataset_id: vec![],
            history: vec![Reign { epoch: 3, replid: vec![7; 20], start_lsn: 4096 }],
            progress: Progress { durable_lsn: 8192, applied_lsn: 8000, checkpoint_lsn: 0 },
            promised_epoch: 3,
            promised_claim: vec![5; 8],
            ring_len: 256 << 20,
            segment_len: 1 << 20,
            fabrics: vec![FabricOffer { name: "tcp".into(), ..FabricOffer::default() }],
            listening_port: 6380,
            announce_address: String::new(),
            software: "0.1.0".into(),
            mid_sync: true,
            sync_cursor: 4096,
            replace_dataset: true,
        })
    }

    #[test]
    fn a_message_comes_back_whatever_the_pieces_it_arrives_in() {
        let mut bytes = Vec::new();
        encode(hello(), &mut bytes);
        encode(Body::Status(Status { session: 9, progress: Progress::default() }), &mut bytes);
        for cut in 0..bytes.len() {
            let first = decode(&bytes[..cut]).unwrap();
            if let Some((envelope, consumed)) = first {
                assert_eq!(envelope.body, Some(hello()));
                assert!(consumed <= cut);
            }
        }
        let (_, consumed) = decode(&bytes).unwrap().unwrap();
        let (second, rest) = decode(&bytes[consumed..]).unwrap().unwrap();
        assert!(matches!(second.body, Some(Body::Status(Status { session: 9, .. }))));
        assert_eq!(consumed + rest, bytes.len());
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_buffered() {
        assert!(matches!(decode(b"\xff\xff\xff\xff\x0f"), Err(ControlError::TooLong { .. })));
        assert!(matches!(decode(b"\xff\xff\xff\xff\xff\xff"), Err(ControlError::TooLong { .. })));
        assert!(matches!(decode(b"*1\r\n$4\r\nPING\r\n"), Ok(None) | Err(_)));
    }

    #[test]
    fn an_unknown_kind_is_an_empty_envelope_not_an_error() {
        // Field 100, length-delimited, empty: tag varint (100 << 3 | 2) = 802 = 0xa2 0x06, then 0.
        let (envelope, consumed) = decode(&[3, 0xa2, 0x06, 0x00]).unwrap().unwrap();
        assert_eq!((envelope.body, consumed), (None, 4));
    }
}
