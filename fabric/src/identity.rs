//! What two nodes compare before they connect a log to a window.

/// What a node is, apart from how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node's id.
    pub node_id: [u8; 16],
    /// The dataset's id; `None` in an empty pool.
    pub dataset_id: Option<[u8; 16]>,
    /// The version of redo records and window.
    pub log_format: u32,
    /// Length of the ring in bytes.
    pub ring_len: u64,
    /// Length of a segment in bytes.
    pub segment_len: u64,
    /// The `farkeep` version, for logs.
    pub software: String,
}
